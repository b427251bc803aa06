"""What the engine asks of a family of latent-variable models, and what each answer must guarantee.

A family is stateless after construction: it holds the number of components and fixed options, never data or
parameters.  Parameters, prepared parameters and statistics are NamedTuples of arrays, so that they can be copied,
compared, merged, saved and sent to other processes without any code of the family's.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from fastem.families.numpy_pass import each_chunk, normalise
from fastem.kernels.expected import Expected
from fastem.records import Empty, Layout


class State(NamedTuple):
    """Parameters and the objective that they reach."""

    params: Any
    objective: float


class MStep(NamedTuple):
    """What an M-step arrived at."""

    params: Any
    notes: tuple[str, ...] = ()  # components rescued, for the monitor


class SmallRun(NamedTuple):
    """A whole run over few rows, made in one compiled call."""

    params: Any
    objective: float
    objectives: np.ndarray  # (n_iter,) at the start of each iteration
    n_iter: int
    converged: bool
    memo: Any


class Groups(NamedTuple):
    """Rows that lie group after group; each group is a problem of its own."""

    X: np.ndarray  # (n, d)
    w: np.ndarray  # (n,) or empty
    offsets: np.ndarray  # (G + 1,) int64: rows offsets[g] .. offsets[g + 1] are those of group g

    @property
    def n_groups(self) -> int:
        """Number of groups G."""
        return len(self.offsets) - 1


class Labelled(NamedTuple):
    """A first assignment of the rows of each group."""

    labels: np.ndarray  # (n,) int32
    centers: np.ndarray  # (G, k, e) float64, which they are the nearest of
    found: np.ndarray  # (G,) bool: whether there is one


class Loose(NamedTuple):
    """Rows that were assigned, and might be assigned otherwise."""

    rows: Any  # m of them, as the family reads rows
    w: np.ndarray  # (m,) float64
    labels: np.ndarray  # (m,) int32


class Limits(NamedTuple):
    """When a run stops."""

    max_iter: int
    tol: float
    slack: float  # relative fall of the objective that is rounding


class Runs(NamedTuple):
    """Where the runs of all groups arrived."""

    objective: np.ndarray  # (G,)
    n_iter: np.ndarray  # (G,) int32; 0 where a group is left to the engine
    converged: np.ndarray  # (G,) bool
    objectives: np.ndarray  # (G, max_iter) at the start of each iteration, or (0, 0)


class Family(ABC):
    """A model that EM can fit.

    Guarantees that the contract tests check for every registered family: statistics are additive over any split of
    the rows; a row of weight m counts as m rows; the objective never falls by more than `shortfall`; the bits of a
    pass do not depend on the number of threads.
    """

    name: str
    params: type[Any]  # the NamedTuple class of the parameters
    constants_record: type[Any] | None = None  # that of `constants`, where they are one
    n_components: int
    allow_nan = False  # NaN is a missing value
    positive_only = False  # rows must not be negative
    reads_csr = False  # takes the rows of a CSR matrix as they are (`sources.csr`), not as dense cells
    runs_are_compiled = False  # `run_groups` pays for one group, too: not only its passes are compiled
    mixes = True  # False for models of one component only
    # Rows hide more than their component (factors, scales): for given responsibilities an M-step then raises the bound
    # of `fastem.analysis.bound`, but not to its top.
    hides_more = False
    continuous = True  # rows are points of a space that may be shifted and scaled; False for counts and codes
    # True: after the loop the engine makes one more pass, so that the objective and the memo (labels) belong to the
    # final parameters.  False: the objective is that of the last E-step, as scikit-learn's mixtures report it.
    final_pass = False

    def __init__(self, n_components: int = 1) -> None:
        self.n_components = n_components

    def check(self, X: np.ndarray) -> None:
        """Refuse rows with values that the family cannot have, by a ValueError of one sentence."""
        return None

    def for_missing(self) -> Family:
        """Return the same model for rows with missing values (NaN): itself, unless these need kernels of their own.

        Asked of families with `allow_nan`, where there are such rows.
        """
        return self

    def for_parts(self) -> Family:
        """Return the same model with an M-step that maximises Q for records of any responsibilities: itself, as a rule.

        Asked where parts of the rows have theirs at other parameters than the last (`engine.incremental`).
        """
        return self

    @abstractmethod
    def layout(self, n_features: int) -> Layout:
        """Shape of the additive record."""

    def constants(self, source: Any) -> Any:
        """One pass before the loop for what no parameter changes."""
        return None

    def stats_of_constants(self, constants: Any, prepared: Any) -> Any:
        """Return the record of all rows if it can be made of the constants alone, or None: the rows must be read."""
        return None

    @abstractmethod
    def prepare(self, params: Any, dtype: np.dtype, previous: Any = None) -> Any:
        """What an iteration needs once, rounded to the rows' dtype: factors, log-weights, an origin in the data.

        `previous` is what the last iteration of the same run was given, for families that compare the two.
        """

    def accumulator(self, n_features: int) -> Any:
        """Return the compiled pass (`jit.sweep`) that adds up the record of rows of so many features.

        None: there is none, and `accumulate` is asked cell by cell.
        """
        return None

    def arguments(self, prepared: Any) -> Any:
        """Return what the compiled pass takes of the prepared parameters: a NamedTuple of arrays."""
        return prepared

    def assigned(self, X: np.ndarray, labels: np.ndarray, prepared: Any, n_threads: int) -> np.ndarray:
        """Return the components (n,) int32 that rows count for, -1 for all by their responsibilities; or empty.

        `labels` are those that are known; a hard assignment fills the rest.
        """
        return labels

    def accumulate(self, X: np.ndarray, w: np.ndarray, labels: np.ndarray, prepared: Any, stats: np.ndarray) -> None:
        """Add the E-step's statistics of one grid cell to the record `stats` (size,), in NumPy.

        X (m, d) float32 or float64 with m <= CELL; w (m,) or empty for unit weights; labels (m,) int32 with -1 for
        unknown, or empty.  `log_joint` and `accumulate_given` do the work in turn, for records that have a field
        `loglik`.
        """
        log_joint = self.log_joint(X, prepared, 1)
        known = np.flatnonzero(labels >= 0)
        own = log_joint[known, labels[known]]
        log_joint[known] = -np.inf
        log_joint[known, labels[known]] = own
        log_prob = normalise(log_joint, prepared)
        self.accumulate_given(X, w, log_joint, prepared, stats)
        weighted = log_prob if not w.size else np.where(w > 0, log_prob, 0.0) * w
        self.layout(X.shape[1]).view(stats).loglik[...] += weighted.sum()

    def new_memo(self, n_rows: int, empty: Empty = np.empty) -> Any:
        """Return per-row state that lives across the iterations of a run, or None; `empty` makes arrays for it.

        It is filled by `total_of_memo`, and offers ``rows(slice)``, the same state for a run of rows.
        """
        return None

    def total_of_memo(self, X: np.ndarray, w: np.ndarray, prepared: Any, n_threads: int, memo: Any) -> np.ndarray:
        """Return the record (size,) of rows that begin on the grid, possibly by what changed since the last pass.

        Asked of families with `new_memo` in place of a pass over the rows.
        """
        raise NotImplementedError(f"{type(self).__name__} remembers nothing of rows.")

    def remembered(self, memo: Any, prepared: Any) -> dict[str, Any]:
        """Return what a saved run needs of its memo and of its last E-step's `prepared`, by name.

        Values are arrays (not copied), numbers, or dicts of these.  Nothing is needed where the next E-step depends on
        the parameters alone.
        """
        return {}

    def recall(self, saved: dict[str, Any], memo: Any) -> Any:
        """Put what `remembered` returned into a new memo; return the `previous` of the next `prepare`, or None."""
        return None

    def arrays_of(self, params: Any) -> dict[str, Any]:
        """Return parameters as arrays and numbers by name, to be saved."""
        arrays: dict[str, Any] = params._asdict()
        return arrays

    def params_of(self, arrays: dict[str, Any]) -> Any:
        """Return the parameters that `arrays_of` took apart."""
        return self.params(**arrays)

    def run_small(self, X: np.ndarray, w: np.ndarray, constants: Any, params: Any, limits: Limits) -> SmallRun | None:
        """Return a whole run from `params`, made in one compiled call, or None to leave it to the engine.

        For the rows of one grid cell, where an iteration costs less than the engine's Python.  The run must be the
        engine's to the bit; whatever needs the engine (notes, a fall of the objective by more than the slack) is left
        to it.
        """
        return None

    @property
    def leaves_undecided(self) -> bool:
        """Whether `undecided` may name rows."""
        return False

    def undecided(self, memo: Any) -> np.ndarray:
        """Return the numbers (m,) of rows that the last pass could as well have assigned otherwise.

        For families whose iterations may stop where a small change helps; they have `partition`, too, which makes of
        the statistics of a pass what `beyond` wants.
        """
        return np.empty(0, np.int64)

    def beyond(self, partition: Any, loose: Iterable[Loose], tol: float) -> Any:
        """Return better parameters than those at which a run converged, from which it goes on, or None.

        `partition` holds all rows as the run has assigned them, `loose` those that are undecided.  What changes by no
        more than `tol` is as good as before.
        """
        raise NotImplementedError(f"{type(self).__name__} reports undecided rows but has no use for them.")

    def runs_groups(self, n_features: int) -> bool:
        """Tell whether compiled code runs this model from a first assignment to the end: `run_groups`."""
        return False

    def constants_of_groups(self, groups: Groups) -> np.ndarray:
        """Return what no parameter changes of each group's rows (G, m), as `run_groups` takes it."""
        return np.empty((groups.n_groups, 0))

    def run_groups(
        self, groups: Groups, start: Labelled, constants: np.ndarray, limits: Limits, *, keep: bool = False
    ) -> tuple[Any, Runs]:
        """Return the parameters (G, ...) at which a run of each group arrives that begins with labels.

        Each is the run of `run_small` that begins with `first_step`'s parameters, to the bit; what needs the engine has
        0 iterations.  With `keep` the runs hold the objectives of all iterations.
        """
        raise NotImplementedError(f"{type(self).__name__} runs no groups.")

    def expect_groups(self, groups: Groups, params: Any, found: np.ndarray, **outputs: np.ndarray) -> None:
        """Fill the outputs of an E-step (see `expect`) for the rows of groups of which parameters are `found` (G,).

        Asked of families that say `runs_groups`.
        """
        raise NotImplementedError(f"{type(self).__name__} runs no groups.")

    def objective(self, stats: Any, constants: Any, params: Any) -> float:
        """The maximised objective of the parameters with which `stats` were collected.

        Here the mean log-likelihood of a row, for records with fields `loglik` and `counts`.
        """
        return float(stats.loglik / stats.counts.sum())

    @abstractmethod
    def m_step(self, stats: Any, constants: Any, prepared: Any, params: Any) -> MStep:
        """Parameters that maximise the expected complete-data log-likelihood, given the statistics.

        `prepared` and `params` are those of the E-step: moments are centred on the means in `prepared`.
        """

    def first_step(self, stats: Any, constants: Any, prepared: Any, params: Any) -> Any:
        """Return the parameters that a start makes of the statistics of a first assignment: those of an M-step.

        Families whose parameters have a boundary that EM cannot leave keep them off it here.
        """
        return self.m_step(stats, constants, prepared, params).params

    def embedding(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """Return the function from rows (m, d) to rows (m, e) whose distances a start may use, or None for the rows.

        `blank_params` then gets its means in those coordinates (k, e).
        """
        return None

    def shortfall(self, stats: Any, constants: Any, prepared: Any, old: Any, new: Any) -> float:
        """By how much floors and regularisation let the objective fall from `old` to `new`.

        Asked only after a fall.  Q(old) - Q(new), both from the record of `old`, bounds it (lecture row L8).
        """
        return 0.0

    def expected_log_likelihood(self, stats: Any, constants: Any, prepared: Any, params: Any) -> float:
        """Return Q of any parameters, under what the E-step with `prepared` found out about what is hidden.

        Terms that no parameter changes may be left out, if they are the same for all records of the same rows.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no expected_log_likelihood, which incremental EM watches its bound by."
        )

    def expected_rounding(self, stats: Any, prepared: Any, params: Any) -> float:
        """By how much rounding may move `expected_log_likelihood`, of a row, beyond that of any sum."""
        return 0.0

    def constants_of_part(self, source: Any) -> Any:
        """Return what `expected_log_likelihood` needs to know of some of the rows, as a source; mostly nothing."""
        return None

    def recentre(self, stats: Any, prepared: Any, onto: Any) -> Any:
        """Return the record of the same rows and responsibilities, centred as an E-step with `onto` centres its own.

        `stats` was collected with `prepared`; both are what `prepare` returned, of different parameters or dtypes.
        Records that are centred alike may be added, whatever parameters their responsibilities are of.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot recentre its record, which fits in parts need.")

    def pooled_constants(self, first: Any, second: Any, keep: float, share: float) -> Any:
        """Return the constants of two sets of rows together, those of `first` counting `keep` times, `second` `share`.

        Counts need not add up to the weight of any rows; what is no sum over rows (a range) covers both.
        """
        if first is None and second is None:
            return None
        raise NotImplementedError(f"{type(self).__name__} cannot pool its constants, which fits in parts need.")

    def with_constants(self, params: Any, constants: Any) -> Any:
        """Return parameters of which those fields are the data's that no M-step estimates, such as a range."""
        return params

    def record_for_missing(self, stats: Any) -> Any:
        """Return a record of complete rows as `for_missing` has it, so that those of other rows may be added."""
        return stats

    may_fall = False  # whether `refill` may lower the objective
    max_refills = sys.maxsize  # so often in one run

    def vacant(self, stats: Any, prepared: Any) -> np.ndarray:
        """Components (m,) that lost all their rows and should be moved to badly explained rows."""
        return np.empty(0, dtype=np.int64)

    def refill(self, stats: Any, prepared: Any, vacant: np.ndarray, rows: Any) -> Any:
        """Move the vacant components to `rows` (the worst explained ones); return changed statistics, or `stats`.

        The very object `stats` says that nothing could be moved.
        """
        raise NotImplementedError(f"{type(self).__name__} reports vacant components but cannot refill them.")

    def progress(self, before: State, after: State) -> float:
        """The number that is compared with tol: how much the objective changed since the last iteration.

        `before` holds the last parameters and objective, `after` the new ones.
        """
        return abs(after.objective - before.objective)

    def shapes(self, n_features: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of each array of the parameters, checked before a kernel trusts fitted attributes."""
        return {}

    def degenerate(self, params: Any, n_rows: float) -> np.ndarray:
        """Tell which components (k,) have an unbounded likelihood, after a fit to so many rows: none of most families.

        Such a fit is no better for its likelihood, and takes no part where models are compared by it.
        """
        return np.zeros(self.n_components, bool)

    def pack(self, params: Any, like: Any) -> np.ndarray:
        """Return unconstrained coordinates (m,) of `params`, relative to `like`: 0 for `like` itself.

        Lengths should be measured by the complete data's information at `like`.  What cannot move (a weight of 0, fixed
        parameters) gets the coordinate 0.  For acceleration; optional.
        """
        raise NotImplementedError(f"{type(self).__name__} has no coordinates, so that it cannot be accelerated.")

    def unpack(self, vector: np.ndarray, like: Any) -> Any:
        """Return the parameters at these coordinates (m,), or None if they lie too far from `like` to be tried."""
        raise NotImplementedError(f"{type(self).__name__} has no coordinates, so that it cannot be accelerated.")

    def admissible(self, params: Any, constants: Any) -> Any:
        """Return unpacked parameters, or the nearest that obey the floors that the data set, to try an E-step with."""
        return params

    @property
    def n_parts(self) -> int:
        """Number of parts of the mixture that a row may belong to."""
        return self.n_components

    def expectation(self, n_features: int) -> Any:
        """Return the compiled E-step alone (`kernels.cell_pass.expectation`), for predict and score.

        None: there is none, and `log_joint` is asked for runs of rows.
        """
        return None

    def no_outputs(self) -> Any:
        """Return what the compiled E-step fills (`Expected`), of no rows."""
        return Expected.of_no_rows(self.n_parts)

    def expect(self, X: np.ndarray, prepared: Any, n_threads: int, **outputs: np.ndarray) -> Any:
        """Fill the outputs that are asked for, named as in `Expected`, by the E-step's own numbers."""
        out = self.no_outputs()._replace(**outputs)
        kernel = self.expectation(X.shape[1])
        if kernel is None:
            self._expect_by_numpy(X, prepared, out, n_threads)
        else:
            kernel.run_each(X, prepared, out, n_threads)
        return out

    def _expect_by_numpy(self, X: np.ndarray, prepared: Any, out: Expected, n_threads: int) -> None:
        def chunk(rows: slice) -> None:
            resp = self.log_joint(X[rows], prepared, 1)
            loglik = normalise(resp, prepared)
            for wanted, found in ((out.loglik, loglik), (out.resp, resp)):
                if len(wanted):
                    wanted[rows] = found
            if len(out.labels):
                out.labels[rows] = resp.argmax(axis=1)

        each_chunk(chunk, len(X), n_threads)

    def log_joint(self, X: np.ndarray, prepared: Any, n_threads: int) -> np.ndarray:
        """Return log p(x_i, z_i = k), float64 (n, k); by NumPy in families that have no compiled `expectation`."""
        if self.expectation(X.shape[1]) is None:
            raise NotImplementedError(f"{type(self).__name__} has neither log_joint nor a compiled expectation.")
        out: np.ndarray = self.expect(X, prepared, n_threads, log_joint=np.empty((len(X), self.n_parts))).log_joint
        return out

    def posterior(self, X: np.ndarray, prepared: Any, n_threads: int) -> tuple[np.ndarray, np.ndarray]:
        """Return log p(x_i) (n,) and the responsibilities (n, k) by Bayes' rule (lecture row L7).

        A row that is infinitely far from all components belongs to the first of the largest weight.
        """
        out = self.expect(X, prepared, n_threads, loglik=np.empty(len(X)), resp=np.empty((len(X), self.n_parts)))
        return out.loglik, out.resp

    def log_prob(self, X: np.ndarray, prepared: Any, n_threads: int) -> np.ndarray:
        """Return log p(x_i) (n,), without keeping (n, k) numbers."""
        log_prob: np.ndarray = self.expect(X, prepared, n_threads, loglik=np.empty(len(X))).loglik
        return log_prob

    def most_probable(self, X: np.ndarray, prepared: Any, n_threads: int) -> np.ndarray:
        """Return the component (n,) int32 of highest responsibility for each row, the lowest of equals."""
        labels: np.ndarray = self.expect(X, prepared, n_threads, labels=np.empty(len(X), np.int32)).labels
        return labels

    def badness(
        self, X: np.ndarray, w: np.ndarray, prepared: Any, n_threads: int, labels: np.ndarray | None = None
    ) -> np.ndarray:
        """How badly each row is explained (n,): the largest are `extreme_rows`; labels are those of a memo."""
        badness = -self.log_prob(X, prepared, n_threads)
        return np.where(w > 0, badness, -np.inf) if w.size else badness

    def accumulate_given(self, X, w, resp: np.ndarray, prepared: Any, stats: np.ndarray) -> None:
        """Add one cell's statistics for given responsibilities (m, k)."""
        raise NotImplementedError(f"{type(self).__name__} cannot start from responsibilities.")

    @abstractmethod
    def blank_params(self, means: np.ndarray, variances: np.ndarray) -> Any:
        """Return parameters to centre the first statistics on: equal weights, means (k, d), variances (d,)."""

    # What a family of one's own needs only if it is asked for.

    def example_params(self, n_features: int, draws: Any) -> Any:
        """Plausible random parameters of some spread, for simulation, warm-up and the contract tests."""
        raise NotImplementedError(f"{type(self).__name__} has no example parameters.")

    def sample(self, params: Any, n: int, draws: Any) -> tuple[np.ndarray, np.ndarray]:
        """Draw n rows (n, d) float64 and their components (n,)."""
        raise NotImplementedError(f"{type(self).__name__} cannot draw samples.")

    def n_free_params(self, n_features: int) -> int:
        """Number of free parameters, for AIC and BIC."""
        raise NotImplementedError(f"{type(self).__name__} does not count its parameters, so that it has no AIC or BIC.")
