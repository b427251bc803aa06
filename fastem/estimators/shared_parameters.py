"""What parameters mean that estimators share: said once, and put into the docstring of each."""

from __future__ import annotations

import re
import textwrap
from typing import TypeVar

T = TypeVar("T", bound=type)

ENTRIES = """\
n_components : int, default=1
    Number of components k.
n_clusters : int, default=8
    Number of clusters k.
tol : float, default=1e-6
    Stop when the mean log-likelihood of a row changes by at most this.
max_iter : int, default=500
    Most iterations of one restart.
n_init : int, default=1
    Number of restarts; the one with the highest log-likelihood is kept.
random_state : int, RandomState, Generator or None, default=None
    Seed of the starts and of `sample`.
warm_start : bool, default=False
    Begin the next fit with the last one's parameters.
verbose : int, default=0
    Print every `verbose_interval`-th iteration.
verbose_interval : int, default=10
    See `verbose`.
n_threads : int or None, default=None
    Threads to use; None means all that the process may use, negative counts from the end (-1 all, -2 all but one).
callback : callable or None, default=None
    Called after each iteration with an `IterationInfo`; returning True stops that restart.
certify : bool, default=False
    Raise `MonotonicityError` should the log-likelihood fall by more than rounding.
keep_history : bool, default=False
    Keep the parameters of every iteration of the best restart in `history_` (lecture row L12).
accelerate : {"squarem"} or None, default=None
    Extrapolate the path of EM to need fewer iterations.  The log-likelihood never falls for it, but the run may end
    in another local maximum than plain EM, and passes that are thrown away are not counted by `n_iter_`.
drop_restarts : bool, default=False
    Drop restarts early that will hardly reach the best one.
escape : {"split-merge"} or None, default=None
    Try to leave the best run's local maximum by merging two components and splitting a third; `lower_bound_` may
    then exceed all of `restarts_`.
convergence : {"change", "remaining"}, default="change"
    What `tol` is compared with: the last change of the mean log-likelihood, or what is left of it to gain, by
    Aitken's estimate.  Runs that are to be compared need the second (`fastem.select` takes it).
checkpoint : str, path or None, default=None
    File to save the state of the fit in, from which the next `fit` goes on should this one be killed, to the same
    bits; a finished fit removes it.  See docs/larger_than_memory.md.
checkpoint_every : int, str or timedelta, default="5min"
    How often: an int of iterations, or a time such as "30s", "5min" or "2h".
learning_decay : float, default=0.6
    Of `partial_fit`: a batch counts by its share of all weight so far to this power, in (0.5, 1].  At 1 all rows
    count alike; the less, the sooner early batches are forgotten.
first_batches : int, default=1
    Of `partial_fit`: batches at whose end the first M-step is made; until then rows count alike, at the start's
    parameters, so that it is the M-step of EM over all of them.
average_from : int or None, default=None
    Of `partial_fit`: number of the batch from which on statistics are averaged; the fitted attributes are then made
    of their mean.
algorithm : {"em", "incremental"}, default="em"
    "incremental" makes an M-step after the E-step of each block of rows, on what is known of all blocks (Neal and
    Hinton 1998): fewer passes over the rows, which are then what `max_iter` and `n_iter_` count.  `lower_bound_` is
    a bound of the log-likelihood that never falls, and touches it where the fit ends.  See docs/online.md.
n_blocks : int, default=16
    Of "incremental": most blocks.  Each has 2048 rows, or that times a power of two; with one it is EM.
"""
# By name, the entry of a numpydoc section.
SHARED = {entry.partition(" :")[0]: entry for entry in re.split(r"\n(?=\S)", ENTRIES.strip())}
# A line of a docstring that stands for the entries of these names.
NAMES = re.compile(r"^( *)\{([a-z_]+(?:, [a-z_]+)*)\}$", re.MULTILINE)


def documented(estimator: T) -> T:
    """Put the entries of shared parameters into a class's docstring, where a line names them in braces.

    Parameters
    ----------
    estimator : type
        A class whose docstring may have lines such as ``{tol, max_iter}``.

    Returns
    -------
    type
        The same class.

    Raises
    ------
    KeyError
        If a line names what is not shared.
    """
    if estimator.__doc__:  # none under python -OO
        estimator.__doc__ = NAMES.sub(_entries, estimator.__doc__)
    return estimator


def _entries(line: re.Match[str]) -> str:
    return textwrap.indent("\n".join(SHARED[name] for name in line[2].split(", ")), line[1])
