"""Incremental EM (engine/incremental.py), over every registered family with a bound."""

import drawn
import naive
import numpy as np
import pytest
from scipy.special import digamma, gammaln, logsumexp

import fastem
from fastem import families
from fastem.draws import Draws
from fastem.engine import em
from fastem.engine.checkpoint import Restart
from fastem.engine.incremental import IncrementalRun, Node, Records, block_rows
from fastem.engine.monitor import MonotonicityError, Settings
from fastem.engine.problem import Problem
from fastem.families.base import MStep
from fastem.families.gaussian import GaussianFamily
from fastem.families.student import StudentFamily
from fastem.grid import CELL
from fastem.sources.memory import MemorySource
from fastem.sources.spool import Spool
from fastem.sources.stream import FileSource, StreamSource

ALL = [name for name in sorted(families.FAMILIES) if name != "kmeans"]
# Models by letters are the full ones but for their M-step.
PLAIN = [name for name in ALL if not name[-3:].isupper() or name.endswith("VEV")]
NAMES = [*PLAIN, *(pytest.param(name, marks=pytest.mark.deep) for name in sorted(set(ALL) - set(PLAIN)))]
D, N = 3, 3 * CELL + 700

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def posed(name, dtype=np.float64, missing=False, make=MemorySource, n=N, n_threads=1, **options):
    """A problem of weighted rows, and parameters that are not those that the rows were drawn from."""
    family, draws = families.make(name, 2 if families.mixes(name) else 1, **options), Draws(0)
    X = drawn.rows(family, family.example_params(D, draws), n, draws).astype(dtype)
    X = drawn.holes(X) if missing else X
    w = (0.5 + Draws(5).uniform(n)).astype(dtype)
    problem = Problem(make(X, w, None, n_threads), family)
    return problem, problem.family.with_constants(family.example_params(D, Draws(1)), problem.constants)


def run(problem, start, passes=4, n_blocks=8, **options):
    options = {"tol": 0.0, "certify": True, **options}
    return IncrementalRun(problem, start, Settings(max_iter=passes, n_blocks=n_blocks, **options)).until(passes)


def test_blocks_are_subtrees_of_the_grid():
    for n in (1, CELL, CELL + 1, 10 * CELL, 31 * CELL + 5):
        for most in (1, 2, 5, 16):
            rows = block_rows(n, most)
            assert rows * most >= n
            assert rows == CELL or rows // 2 * most < n  # no larger than it must be
            assert np.log2(rows // CELL) % 1 == 0


@pytest.mark.parametrize("name", [name for name in PLAIN if not name.startswith("student") and name != "factor"])
def test_one_block_is_em_to_the_bit(name):
    problem, start = posed(name, n=CELL + 300)
    got = run(problem, start, n_blocks=1)
    want = em.EMRun(problem, start, Settings(max_iter=4, tol=0.0)).until(4)
    np.testing.assert_array_equal(got.objectives, want.objectives)
    for a, b in zip(got.params, want.params, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["gaussian-full", "gaussian-tied", "poisson", "factor-mixture"])
def test_the_first_pass_is_em_s_to_the_bit_and_later_ones_gain_more(name):
    problem, start = posed(name)
    got = run(problem, start)
    want = em.EMRun(problem, start, Settings(max_iter=4, tol=0.0, keep_history=True)).until(4)
    first = run(problem, start, 1)
    for a, b in zip(first.params, want.history[1], strict=True):
        np.testing.assert_array_equal(a, b)
    assert got.objectives[0] == pytest.approx(want.objectives[0], rel=1e-13)
    assert got.objectives[3] > want.objectives[3]


@pytest.mark.parametrize(("kind", "cells"), [("full", 1), ("tied", 1), ("diag", 2), ("spherical", 1)])
def test_the_bound_and_the_path_are_those_of_neal_and_hinton(kind, cells):
    """q of every row is kept, and F(q, theta) added up term by term."""
    problem, start = posed(f"gaussian-{kind}", reg_covar=0.0)
    X, w, params = problem.source.X, problem.source.sample_weight, start
    blocks = [slice(first, first + cells * CELL) for first in range(0, N, cells * CELL)]

    def log_joint():
        return naive.gaussian_log_joint(X, *params[:3], kind)

    def bound(q):
        return np.sum(w[:, None] * q * (log_joint() - np.log(np.maximum(q, 1e-300)))) / w.sum()

    def m_step(q):
        n = w @ q
        means = (q * w[:, None]).T @ X / n[:, None]
        centred = X[:, None] - means
        full = np.einsum("nk,nki,nkj->kij", q * w[:, None], centred, centred)
        own = full / n[:, None, None]
        covariances = {
            "full": own,
            "tied": full.sum(axis=0) / n.sum(),
            "diag": np.diagonal(own, axis1=1, axis2=2),
            "spherical": np.trace(own, axis1=1, axis2=2) / D,
        }[kind]
        return GaussianFamily(2, kind, 0.0).with_covariances(n / n.sum(), means, covariances).params

    got = run(problem, start, 3, n_blocks=len(blocks))
    q, bounds = np.empty((N, 2)), []
    for number in range(3):
        for rows in blocks:
            joint = log_joint()[rows]
            q[rows] = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
            if rows is blocks[-1]:
                bounds.append(bound(q))
            if number or rows is blocks[-1]:
                params = m_step(q)
    np.testing.assert_allclose(got.objectives, bounds, rtol=1e-11)
    for name, a, b in zip(params._fields[:3], got.params, params, strict=False):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("missing", [False, True])
def test_the_bound_never_falls(name, missing):
    """The certificate holds it at every block, not only at the ends of passes, which are seen here."""
    for dtype in (np.float64, np.float32):
        problem, start = posed(name, dtype, missing)
        if missing and not problem.family.allow_nan:
            return
        found = run(problem, start)
        slack = 64 * np.finfo(dtype).eps * (1 + np.abs(found.objectives[-1]))
        assert (np.diff(found.objectives) >= -slack).all()
        prepared = problem.family.prepare(found.params, dtype)
        stats = problem.source.accumulate(problem.family, prepared)
        assert problem.family.objective(stats, problem.constants, found.params) >= found.objective - slack


def test_the_bound_of_badly_conditioned_rows_is_held_to_no_more_than_its_rounding():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    X = rng.normal(size=(9000, 4)) * np.geomspace(1, 1e-3, 4) @ turn.T + 3.0 * rng.integers(0, 2, (9000, 1))
    for kind in ("full", "tied", "VEV"):
        model = fastem.GaussianMixture(2, covariance_type=kind, reg_covar=0.0, tol=0.0, max_iter=20, random_state=0)
        model.set_params(algorithm="incremental", n_blocks=8, certify=True).fit(X)
        assert model.n_iter_ > 1


@pytest.mark.parametrize("name", PLAIN)
def test_it_ends_at_a_fixed_point_of_em(name):
    problem, start = posed(name, missing=name == "factor")
    found = run(problem, start, 1000, tol=1e-9)  # factor analysers take 418
    assert found.converged
    after = em.EMRun(problem, found.params, Settings(max_iter=2, tol=0.0)).until(2)
    assert 0 <= after.objectives[1] - after.objectives[0] + 1e-12 < 1e-8
    assert after.objectives[0] - found.objective == pytest.approx(0.0, abs=1e-7)  # the bound has become tight


def sources(X, w, labels, n_threads):
    pieces = [X[first : first + 1000] for first in range(0, len(X), 1000)]
    yield MemorySource(X, w, labels, n_threads)
    yield FileSource(X, w, labels, n_threads, spool=Spool())
    from fastem.sources.reading import cut

    yield StreamSource(lambda: cut(iter(pieces)), X.shape, X.dtype, w, labels, n_threads, spool=Spool())


@pytest.mark.parametrize("name", ["gaussian-full", "gaussian-tied", "student-diag", "poisson"])
@pytest.mark.parametrize("missing", [False, True])
def test_the_bits_are_the_same_for_any_threads_and_any_source(name, missing):
    problem, start = posed(name, missing=missing)
    want = run(problem, start, 3)
    X, w = problem.source.X, problem.source.sample_weight
    for n_threads in (1, 2):
        for source in sources(X, w, np.empty(0, np.int32), n_threads):
            got = run(Problem(source, families.make(name, 2)), start, 3)
            np.testing.assert_array_equal(got.objectives, want.objectives)
            for a, b in zip(got.params, want.params, strict=True):
                np.testing.assert_array_equal(a, b)


def test_a_run_ends_with_the_first_pass_that_gains_less_than_tol():
    problem, start = posed("gaussian-diag")
    whole = run(problem, start, 30)
    gains = np.diff(whole.objectives)
    tol = 1.01 * gains[:5].min()
    last = 1 + int(np.argmax(gains < tol))  # passes before it
    ended = run(problem, start, 30, tol=tol)
    assert last > 1
    assert whole.n_iter > last + 1
    assert (ended.converged, ended.n_iter) == (True, last + 1)
    np.testing.assert_array_equal(ended.objectives, whole.objectives[: last + 1])
    place = Restart(reached=whole.objectives[0])
    went_on = IncrementalRun(problem, start, Settings(max_iter=30, n_blocks=8, tol=tol), place)
    assert went_on.until(30).n_iter == 1  # its first pass gains nothing beyond what had been reached


def test_blocks_of_more_rows_than_a_stream_s_have_the_same_bits():
    X = np.random.default_rng(0).normal(size=(300_000, 1)) + 3.0 * np.random.default_rng(1).integers(0, 2, (300_000, 1))
    start = families.make("gaussian-tied", 2).example_params(1, Draws(1))
    runs = [
        run(Problem(source, families.make("gaussian-tied", 2)), start, 3, n_blocks=2)
        for source in sources(X, np.empty(0), np.empty(0, np.int32), 2)
    ]
    for other in runs[1:]:
        np.testing.assert_array_equal(other.objectives, runs[0].objectives)


def test_sums_of_records_hold_the_last_record_of_each_block_about_the_last_points():
    family, X = families.make("gaussian-full", 2), np.random.default_rng(0).normal(size=(5, 400, D))
    records, last, prepared = Records(family, 5), {}, None
    for turn, number in enumerate([0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 3]):
        prepared = family.prepare(family.example_params(D, Draws(turn)), np.dtype(np.float64))
        stats = MemorySource(X[number]).accumulate(family, prepared)
        last[number] = Node(prepared, stats, float(stats.loglik), float(turn))
        records.replace(number, last[number])
    about = [family.recentre(node.stats, node.prepared, prepared) for node in last.values()]
    for name, total, *parts in zip(records.total.stats._fields, records.total.stats, *about, strict=True):
        np.testing.assert_allclose(total, np.sum(parts, axis=0), rtol=1e-9, atol=1e-9, err_msg=name)
    assert records.total.prepared is prepared
    assert records.total.expected == sum(node.expected for node in last.values())


def test_student_s_expected_log_likelihood_is_that_of_its_gamma_variables_and_the_plain_step_its_maximum():
    family = StudentFamily(2, reg_covar=0.0)
    at, X = family.example_params(D, Draws(1)), np.random.default_rng(0).standard_t(4, size=(600, D))
    prepared = family.prepare(at, X.dtype)
    stats, plain = MemorySource(X).accumulate(family, prepared), family.for_parts()

    def distances(params):
        centred = X[:, None] - params.means
        return np.einsum("nki,kij,nkj->nk", centred, np.linalg.inv(params.scales), centred)

    r = family.posterior(X, prepared, 1)[1]
    u = (at.dofs + D) / (at.dofs + distances(at))
    log_u = np.log(u) + digamma(0.5 * (at.dofs + D)) - np.log(0.5 * (at.dofs + D))

    def direct(params):
        half = 0.5 * params.dofs
        normal = np.log(params.weights) - 0.5 * np.linalg.slogdet(params.scales)[1] - 0.5 * u * distances(params)
        return np.sum(r * (normal + half * np.log(half) - gammaln(half) + half * (log_u - u)))

    best = plain.m_step(stats, None, prepared, at).params
    others = [family.example_params(D, Draws(seed)) for seed in range(2, 5)]
    q = [plain.expected_log_likelihood(stats, None, prepared, params) for params in (at, best, *others)]
    want = [direct(params) for params in (at, best, *others)]
    np.testing.assert_allclose(np.diff(q), np.diff(want), rtol=1e-9)
    for name, field in zip(best._fields, best, strict=True):
        if name not in ("weights", "precisions_cholesky"):
            for factor in (0.99, 1.01):
                assert direct(best._replace(**{name: field * factor})) < direct(best), name


class WrongMeans(GaussianFamily):
    """Forgets the means at the third M-step, which is in the middle of the second pass."""

    calls = 0

    def m_step(self, stats, constants, prepared, params):
        step = super().m_step(stats, constants, prepared, params)
        self.calls += 1
        return MStep(step.params._replace(means=step.params.means + 1.0)) if self.calls == 3 else step


def test_a_wrong_m_step_in_the_middle_of_a_pass_is_found_out_there():
    problem, start = posed("gaussian-full")
    wrong = Problem(problem.source, WrongMeans(2))
    with pytest.raises(MonotonicityError, match=r"fell by .* at iteration 2 of restart 0"):
        run(wrong, start)
    wrong.family.calls = 0
    assert any("the objective fell" in note for note in run(wrong, start, certify=False).notes)


# --- estimators


def blobs(n=N, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)) + 3.0 * rng.integers(0, 2, (n, 1))


def test_passes_are_counted_watched_and_kept():
    X, seen = blobs(), []
    model = fastem.GaussianMixture(2, algorithm="incremental", n_blocks=4, max_iter=5, tol=0.0, random_state=0)
    model.set_params(callback=seen.append, keep_history=True, certify=True).fit(X)
    assert (model.n_iter_, len(model.lower_bounds_), len(model.history_)) == (5, 5, 6)
    assert [info.iteration for info in seen] == [1, 2, 3, 4, 5]
    assert [info.objective for info in seen] == model.lower_bounds_
    assert model.lower_bound_ == model.lower_bounds_[-1] <= model.score(X)
    np.testing.assert_array_equal(seen[-1].params.means, model.means_)
    model.set_params(warm_start=True, max_iter=50, tol=1e-8, callback=None).fit(X)
    assert model.converged_
    assert model.lower_bounds_[0] >= seen[-1].objective


@pytest.mark.parametrize("restarts", [{"drop_restarts": True, "n_init": 4}, {"escape": "split-merge"}, {"n_init": 2}])
def test_restarts_and_escapes_run_in_blocks_too(restarts):
    model = fastem.GaussianMixture(3, algorithm="incremental", max_iter=12, init_params="random_from_data", **restarts)
    model.set_params(certify=True, random_state=0).fit(blobs())
    assert len(model.restarts_) == restarts.get("n_init", 1)
    assert model.lower_bound_ >= model.restarts_.max()


def test_known_labels_noise_and_hard_assignment_have_a_bound_too():
    X, labels = blobs(), np.full(N, -1)
    labels[:500] = 1
    options = {"algorithm": "incremental", "n_blocks": 8, "max_iter": 4, "tol": 0.0, "certify": True, "random_state": 0}
    for more in ({}, {"noise": True}, {"assignment": "hard"}, {"fixed": ["means"], "means_init": [[0, 0], [3, 3]]}):
        model = fastem.GaussianMixture(2, **options, **more).fit(X, labels=labels)
        assert np.diff(model.lower_bounds_).min() > -1e-12


def test_factor_analysis_of_complete_rows_reads_none_of_them_in_blocks():
    X = blobs() @ [[1.0, 2.0, 3.0], [0.0, 1.0, -1.0]] + np.random.default_rng(1).normal(size=(N, 3))
    plain = fastem.FactorAnalysis(1).fit(X)
    blocks = fastem.FactorAnalysis(1, algorithm="incremental").fit(X)
    assert blocks.loglike_ == plain.loglike_
    X = drawn.holes(X)
    blocks = fastem.FactorAnalysis(1, algorithm="incremental", certify=True, tol=1e-6).fit(X)
    assert blocks.score(X) == pytest.approx(fastem.FactorAnalysis(1, tol=1e-6).fit(X).score(X), abs=1e-6)


@pytest.mark.parametrize("name", ["accelerate", "rescue", "checkpoint"])
def test_what_has_no_meaning_in_blocks_is_refused(name, tmp_path):
    value = {"accelerate": "squarem", "rescue": True, "checkpoint": tmp_path / "fit.npz"}[name]
    model = fastem.GaussianMixture(2, algorithm="incremental", **{name: value})
    with pytest.raises(ValueError, match=f"algorithm='incremental' does not go with '{name}': .+"):
        model.fit(blobs(100))


def test_bad_parameters_and_rows_are_refused_in_a_sentence():
    X = blobs(100)
    with pytest.raises(ValueError, match="The 'algorithm' parameter of GaussianMixture must be a str among"):
        fastem.GaussianMixture(2, algorithm="steps").fit(X)
    with pytest.raises(ValueError, match="The 'n_blocks' parameter of PoissonMixture must be an int in the range"):
        fastem.PoissonMixture(2, n_blocks=0).fit(np.ones((9, 1)))
    with pytest.raises(NotImplementedError, match="KMeansFamily has no expected_log_likelihood, which incremental EM"):
        fastem.Mixture(2, family="kmeans", algorithm="incremental").fit(blobs())
    array = pytest.importorskip("dask.array")
    with pytest.raises(TypeError, match="algorithm='incremental' takes rows in memory or in files, not Dask's"):
        fastem.GaussianMixture(2, algorithm="incremental").fit(array.from_array(blobs(), chunks=(3000, 2)))
