"""The sessions of a working day: ``nox -s fast``, ``test``, ``deep``, ``bench``, ``docs``; ``nox -l`` lists them.

Each runs in an environment of its own; ``nox --no-venv -s fast`` takes the one that nox is installed in.
"""

import nox

nox.options.sessions = ["fast"]
nox.options.reuse_existing_virtualenvs = True

# Peers and libraries are measured with the BLAS kernels that fit the processor.
CLEAN = {"OPENBLAS_CORETYPE": None, "MPLBACKEND": "Agg"}
ROOMS = ("engine", "sources", "kernels", "native")


def install(session: nox.Session, extras: str) -> None:
    """Install the checkout, editable, with these extras."""
    if session.virtualenv.is_sandboxed:
        session.install("-e", f".[{extras}]")


@nox.session
def fast(session: nox.Session) -> None:
    """Run lint, types and the tests of the lower rooms: a minute, once kernels are compiled."""
    install(session, "all,test,dev")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    tests = [f"tests/{room}" for room in ROOMS]
    session.run("pytest", "-q", "tests/test_structure.py", *tests, *session.posargs, env=CLEAN)


@nox.session
def test(session: nox.Session) -> None:
    """Run all tests but the slow ones."""
    install(session, "all,test")
    session.run("pytest", "-q", *session.posargs, env=CLEAN)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run what exercises engine and sources, and fail if it leaves out more than a twentieth of their lines."""
    install(session, "all,test")
    session.run("pytest", "-q", *COVERED, *session.posargs, env=CLEAN)


COVERED = (
    "tests/engine",
    "tests/sources",
    "tests/families/test_family_contract.py",
    "tests/estimators/test_missing.py",
    "tests/estimators/test_mixture_rescue.py",
    "tests/analysis/test_selection.py",
    "tests/estimators/test_checkpoints.py",
    "tests/estimators/test_kmeans_csr.py",
    "tests/estimators/test_kmeans_variants.py",
    "tests/cli/test_tables.py",
    "tests/cli/test_large_tables.py",
    "--cov=fastem.engine",
    "--cov=fastem.sources",
    "--cov-branch",
    "--cov-report=term-missing:skip-covered",
    "--cov-fail-under=95",
)


@nox.session
def deep(session: nox.Session) -> None:
    """Run the slow tests, beside the peers."""
    install(session, "all,test,peers")
    session.run("pytest", "-q", "-m", "deep", *session.posargs, env=CLEAN)


@nox.session
def bench(session: nox.Session) -> None:
    """Compare the checkout's commit with another (main, or what is given), in pairs."""
    install(session, "bench")
    session.run("python", "-m", "asv_bench.gate", *(session.posargs or ("main", "HEAD")), env=CLEAN)


@nox.session
def docs(session: nox.Session) -> None:
    """Run every example: docstrings, README, the pages of docs/ and examples/; draw the pictures anew."""
    install(session, "all,test")
    session.run("pytest", "-q", "tests/docs", "tests/families/test_own_family.py", env=CLEAN)
    session.run("python", "docs/make_pictures.py", env=CLEAN)
