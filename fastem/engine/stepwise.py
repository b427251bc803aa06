r"""Stepwise EM: parameters that follow batches of rows, each of which is seen once and may then be forgotten.

A batch of weight w_n is met by one E-step at the current parameters and one M-step.  With s_n its mean statistics, and
W_n = w_1 + ... + w_n,

    S <- (1 - g_n) S + g_n s_n,      g_n = (w_n / W_n)^a,      0.5 < a <= 1,

and the parameters are those that an M-step makes of S (Cappe and Moulines 2009; g_n = n^-a for equal batches).
At a = 1 all rows count alike, also those of early batches, whose statistics were collected at poor parameters.  Below 1
these are forgotten, and S is of fewer rows; what it varies by for that, its mean over the batches takes out again
(averaging, after Polyak and Ruppert: parameters are made of the mean of the statistics, which differs from the mean of
the parameters in terms of second order, and is a record like any other).

The M-step begins with a given batch.  Until then all rows count alike at the parameters of the start, so that the first
M-step is that of EM over all these batches, to rounding.

Records are centred on the parameters that they were collected at, and are moved to those of the next batch by
`Family.recentre`.  They are kept as sums over rows that weigh W_n in all: at a = 1 no factor but 1 is used.

References
----------
Cappe and Moulines, "On-line expectation-maximization algorithm for latent data models", JRSS B 71, 2009.
Liang and Klein, "Online EM for unsupervised models", NAACL 2009 (batches, a).
Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control Optim. 30, 1992.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np

from fastem import threads
from fastem.families.base import Family


class Pace(NamedTuple):
    """How fast stepwise EM forgets."""

    decay: float = 0.6  # a
    first_batches: int = 1  # number of the batch after which the first M-step is made
    average_from: int | None = None  # number of the batch from which on statistics are averaged


class Sums(NamedTuple):
    """Statistics and constants of rows that weigh as much as all that were seen."""

    stats: Any  # the family's record
    constants: Any  # what `Family.constants` returns, pooled

    def with_share(self, other: Sums, family: Family, keep: float, share: float) -> Sums:
        """Return `keep` times these and `share` times the others, which are centred alike."""
        parts = zip(self.stats, other.stats, strict=True)
        stats = type(self.stats)(*[keep * mine + share * theirs for mine, theirs in parts])
        return Sums(stats, family.pooled_constants(self.constants, other.constants, keep, share))


class Stepwise:
    """Where stepwise EM stands between two batches.

    Parameters
    ----------
    family : Family
        The model, for complete rows.
    params : object
        The parameters to begin with.

    Attributes
    ----------
    params : object
        The current parameters, at which the next batch is met.
    n_batches, n_rows : int
        How many were seen.
    weight : float
        What they weigh.
    objective : float
        Objective of the last batch at the parameters at which it was met.
    notes : tuple of str
        What the last M-step had to do.

    Examples
    --------
    >>> import numpy as np
    >>> from fastem import families
    >>> from fastem.sources.memory import MemorySource
    >>> family = families.make("gaussian-full", 1)
    >>> run = Stepwise(family, family.blank_params(np.zeros((1, 1)), np.ones(1)))
    >>> for batch in ([[0.0], [2.0]], [[4.0], [6.0]]):
    ...     run = run.after(MemorySource(np.array(batch)), Pace(decay=1.0))
    >>> run.params.means, run.n_batches, run.n_rows
    (array([[3.]]), 2, 4)
    """

    def __init__(self, family: Family, params: Any) -> None:
        self.family = family
        self.params = params
        self.missing = False  # whether a value was missing so far: records are then those of `for_missing`
        self.dtype = np.dtype(np.float64)  # of the last batch: that of the points that the sums are centred on
        self.sums: Sums | None = None
        self.averaged: Sums | None = None
        self.n_averaged = 0
        self.n_batches = 0
        self.n_rows = 0
        self.weight = 0.0
        self.objective = -np.inf
        self.notes: tuple[str, ...] = ()

    @property
    def serving(self) -> Family:
        """The family that serves the rows: that for missing values once there are some."""
        return self.family.for_missing() if self.missing else self.family

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the family, which may hold what cannot be pickled: `of_family` gives it back."""
        return {name: value for name, value in vars(self).items() if name != "family"}

    def of_family(self, family: Family, n_features: int) -> Stepwise | None:
        """Return the same run of a family that may have other options; None if it is none of this family's."""
        run = copy.copy(self)
        run.family = family
        shapes = run.serving.shapes(n_features)
        if not isinstance(run.params, family.params):
            return None
        if any(np.shape(getattr(run.params, name)) != shape for name, shape in shapes.items()):
            return None
        layout = run.serving.layout(n_features)
        for sums in (run.sums, run.averaged):
            if sums is not None and tuple(np.shape(field) for field in sums.stats) != layout.shapes:
                return None
        return run

    def after(self, source: Any, pace: Pace) -> Stepwise:
        """Return where the run stands after one more batch; this object stays what it is.

        Parameters
        ----------
        source : a source of `fastem.sources`
            The batch.
        pace : Pace
            The step, and when M-steps and averages begin; it may change from batch to batch.
        """
        with threads.single_threaded_blas():
            return self._after(source, pace)

    def _after(self, source: Any, pace: Pace) -> Stepwise:
        run = copy.copy(self)
        run.family = self.family
        if not run.missing and run.family.allow_nan and source.has_nan:
            run._admit_missing()
        family, weight = run.serving, float(source.total_weight)
        run.n_batches, run.n_rows, run.weight = run.n_batches + 1, run.n_rows + source.n_rows, run.weight + weight
        own = family.constants(source)
        keep, share = run._factors(weight / run.weight, pace)
        pooled = own if run.sums is None else family.pooled_constants(run.sums.constants, own, keep, share)
        params = family.with_constants(run.params, pooled)
        prepared = family.prepare(params, source.dtype)
        stats = run._stats(own, prepared, source)
        run.objective = family.objective(stats, own, params)
        if run.sums is not None:
            run._recentre(family, prepared)
            stats = run.sums.with_share(Sums(stats, own), family, keep, share).stats
        whole = family.stats_of_constants(pooled, prepared)
        run.sums = Sums(stats if whole is None else whole, pooled)
        run._average(family, pace, run.weight / self.weight if self.weight else 1.0)
        if run.n_batches >= pace.first_batches:
            step = family.m_step(run.sums.stats, pooled, prepared, params)
            params, run.notes = step.params, step.notes
        run.params, run.dtype = params, source.dtype
        run._recentre(family, family.prepare(params, source.dtype), prepared)
        return run

    def _stats(self, constants: Any, prepared: Any, source: Any) -> Any:
        """Return the record of a batch, made of its constants alone where that is possible."""
        stats = self.serving.stats_of_constants(constants, prepared)
        if stats is None:
            return source.accumulate(self.serving, prepared)
        return self.family.record_for_missing(stats) if self.missing else stats

    def _factors(self, ratio: float, pace: Pace) -> tuple[float, float]:
        """Return what old sums and those of a batch of this share of all weight are multiplied by."""
        if self.sums is None:
            return 0.0, 1.0
        step = ratio if self.n_batches <= pace.first_batches else ratio**pace.decay
        return (1.0 - step) / (1.0 - ratio), step / ratio

    def _average(self, family: Family, pace: Pace, growth: float) -> None:
        """Take the sums into their mean, from the given batch on; it is kept as sums over as many rows, too."""
        if pace.average_from is None:
            self.averaged, self.n_averaged = None, 0
        elif self.n_batches >= max(pace.average_from, pace.first_batches):
            assert self.sums is not None
            self.n_averaged += 1
            part = 1.0 / self.n_averaged
            mean = self.averaged
            self.averaged = self.sums if mean is None else mean.with_share(self.sums, family, growth * (1 - part), part)

    def _recentre(self, family: Family, onto: Any, before: Any = None) -> None:
        """Centre all sums on another E-step's points."""
        before = family.prepare(self.params, self.dtype) if before is None else before
        for name in ("sums", "averaged"):
            sums = getattr(self, name)
            if sums is not None:
                setattr(self, name, sums._replace(stats=family.recentre(sums.stats, before, onto)))

    def _admit_missing(self) -> None:
        """Turn records of complete rows into those of rows with missing values."""
        for name in ("sums", "averaged"):
            sums = getattr(self, name)
            if sums is not None:
                setattr(self, name, sums._replace(stats=self.family.record_for_missing(sums.stats)))
        self.missing = True

    def best(self) -> Any:
        """Return the parameters to use: those of the averaged statistics where there are some, or the current ones."""
        if self.averaged is None:
            return self.params
        family = self.serving
        prepared = family.prepare(self.params, self.dtype)
        with threads.single_threaded_blas():
            return family.m_step(self.averaged.stats, self.averaged.constants, prepared, self.params).params

    def state(self) -> dict[str, Any]:
        """Return all that the run is as arrays, numbers and dicts of these, by name."""
        kept = ("missing", "n_averaged", "n_batches", "n_rows", "weight", "objective")
        return {
            "params": self.family.arrays_of(self.params),
            "dtype": self.dtype.name,
            **{name: getattr(self, name) for name in kept},
            **{
                name: {"record": np.concatenate([np.ravel(a) for a in sums.stats]), **_constants_state(sums.constants)}
                for name in ("sums", "averaged")
                if (sums := getattr(self, name)) is not None
            },
        }

    @classmethod
    def recalled(cls, family: Family, n_features: int, state: dict[str, Any]) -> Stepwise:
        """Return the run that `state` was taken of.

        Raises
        ------
        ValueError, LookupError, TypeError
            If it is none of this family.
        """
        run = cls(family, family.params_of(state["params"]))
        run.missing, run.dtype = bool(state["missing"]), np.dtype(state["dtype"])
        if run.dtype not in (np.float32, np.float64):
            raise ValueError("a saved run of partial_fit has a dtype that rows cannot have")
        for name in ("n_averaged", "n_batches", "n_rows"):
            setattr(run, name, int(state[name]))
        run.weight, run.objective = float(state["weight"]), float(state["objective"])
        layout = run.serving.layout(n_features)
        for name in ("sums", "averaged"):
            saved = state.get(name)
            if saved is None:
                continue
            record = np.asarray(saved["record"], np.float64)
            if record.shape != (layout.size,) or not np.isfinite(record[1:]).all():
                raise ValueError("a saved run of partial_fit has a record of another size, or one that is not finite")
            setattr(run, name, Sums(layout.view(record), _constants_of(run.serving, saved)))
        return run


def _constants_state(constants: Any) -> dict[str, Any]:
    if constants is None:
        return {}
    return {"constants": constants._asdict() if hasattr(constants, "_asdict") else {"": constants}}


def _constants_of(family: Family, saved: dict[str, Any]) -> Any:
    """Return the constants that `_constants_state` took apart."""
    known = saved.get("constants")
    if known is None:
        return None
    if "" in known:
        return np.asarray(known[""], np.float64)
    assert family.constants_record is not None
    return family.constants_record(**{name: np.asarray(value, np.float64) for name, value in known.items()})
