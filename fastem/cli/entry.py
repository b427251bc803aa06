"""Entry point of the command line: runs a command and turns whatever goes wrong into one sentence.

Exit codes: 0 done, 1 a defect of fastem, 2 bad input, 130 interrupted.  Set ``FASTEM_DEBUG=1`` to see tracebacks.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence

EXTRAS = ("typer", "rich", "pyarrow")
DEFECT = 1
BAD_INPUT = 2
INTERRUPTED = 130


def main() -> None:
    """Run the command line that this process was started with."""
    for stream in (sys.stdout, sys.stderr):  # a column name that the terminal cannot show is no reason to fail
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Parameters
    ----------
    arguments : sequence of str
        The command and its options, as in ``["fit", "faithful.csv", "-k", "2"]``.

    Returns
    -------
    int
        The exit code.
    """
    missing = [name for name in EXTRAS if importlib.util.find_spec(name) is None]
    if missing:
        return _refuse(f'the command line needs {" and ".join(missing)}: pip install "fastem[cli]".')
    try:
        from fastem.cli.select import app  # and with it all other commands

        code = app(args=list(arguments), prog_name="fastem", standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # typer swallows the interrupt itself
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        return _refuse("interrupted.", INTERRUPTED)
    except (BrokenPipeError, SystemExit):  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("FASTEM_DEBUG"):
            raise
        return _sentence(error)


def _sentence(error: Exception) -> int:
    """Say what went wrong: typer's usage errors, ours and the estimators' refusals, or a defect."""
    if type(error).__name__ == "Abort":  # typer's word for an interrupt
        return _refuse("interrupted.", INTERRUPTED)
    if hasattr(error, "format_message"):  # a usage error; newer typer brings its own copy of click
        message = error.format_message()  # empty after the help that a bare `fastem` prints
        return _refuse(_one_line(message)) if message else BAD_INPUT
    if isinstance(error, MemoryError):
        return _refuse("there is not enough memory for this.")
    if isinstance(error, ValueError | OSError | ImportError):
        return _refuse(_one_line(str(error) or type(error).__name__))
    what = _one_line(f"{type(error).__name__}: {error}")
    return _refuse(f"this is a defect; run again with FASTEM_DEBUG=1 and report it. {what}", DEFECT)


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _refuse(sentence: str, code: int = BAD_INPUT) -> int:
    print(f"fastem: {sentence}", file=sys.stderr)
    return code
