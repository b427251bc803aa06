"""`fastem.fit_many`: one call, a fit for each group."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

import fastem
from fastem import validate
from fastem.many import choosing, pooling
from fastem.many.grouping import Batch, Grouped, gather
from fastem.many.record import BatchFit, concatenated
from fastem.many.result import Facts, ManyFits, shown
from fastem.many.statuses import GOOD, Status
from fastem.registry import BY_SHORT_NAME


def fit_many(
    X: Any,
    groups: Any = None,
    *,
    offsets: Any = None,
    by: Any = None,
    columns: Any = None,
    model: Any = "kmeans",
    n_components: Any = 3,
    candidates: Iterable[int] = range(1, 10),
    sample_weight: Any = None,
    on_error: str = "status",
    fallback: str | None = None,
    n_threads: int | None = None,
    random_state: Any = None,
    **options: Any,
) -> ManyFits:
    """Fit a model to every group of rows.

    Each group gets what a fit to that group alone gives with the same `random_state`, to the bit, whatever the other
    groups, their order and the number of threads.  A group that cannot be fitted gets a status and a sentence, and
    spoils no other.

    Parameters
    ----------
    X : array-like (n_rows, n_features), list of arrays, array (n_groups, n, n_features), or frame
        The rows.  The arrays of a list, or along the first axis, are groups.  A frame is a pandas, polars or Arrow
        table, or anything else with ``__arrow_c_stream__``.
    groups : array-like (n_rows,), or tuple of such
        The key of each row, in any order: numbers, text, dates; or of several parts, a tuple of columns.
    offsets : array-like (n_groups + 1,) of int
        Group g has the rows ``offsets[g]`` to ``offsets[g + 1]``; it may have none.
    by : str or list of str
        The columns of a frame that are the key.
    columns : list of slices or of lists of int; of a frame, list of str
        Groups of features, as in product quantisation: each is fitted to these columns of all rows, and `predict` gives
        codes (n_rows, n_groups).  Of a frame, the features; by default all columns beside `by`.
    model : {"kmeans", "gmm", "bernoulli", "poisson", "categorical", "student", "factor", "mfa"} or estimator
        What to fit: a name as in `fastem.select`, or an estimator of these.
    n_components : int, array-like (n_groups,), mapping of key to int, or "bic"
        The number of components (of clusters, of factors): of all, of each in the order of the sorted keys, of each by
        its key, or of each that of the `candidates` with the lowest BIC (`fastem.select` has the formulas), where those
        whose components have collapsed come last.
    candidates : iterable of int
        What ``n_components="bic"`` chooses from.
    sample_weight : array-like (n_rows,) or None
        Weights of the rows, at least 0; for a list of arrays, or an array of groups, of their form.
    on_error : {"status", "warn", "raise"}
        What happens when a group neither converges nor is stopped: its status alone tells, one warning counts such
        groups, or an error names the first.
    fallback : {"pooled"} or None
        "pooled" gives such groups the model of all rows; their status stays.
    n_threads : int or None
        Threads of the whole; None means all.
    random_state : int, RandomState, Generator or None
        Seed: the same for every group.  None, and a generator, give one, which ``result.estimator`` keeps.
    **options
        Further parameters of the estimator, checked before anything is fitted.

    Returns
    -------
    ManyFits
        The models, labels, and what became of each group.

    Raises
    ------
    ValueError, TypeError
        On bad parameters, groups or weights; if ``on_error="raise"`` at the first bad group.

    Examples
    --------
    >>> import numpy as np, fastem
    >>> rng = np.random.default_rng(0)
    >>> X, shops = rng.normal(size=(300, 2)), np.repeat(["a", "b", "c"], 100)
    >>> result = fastem.fit_many(X, shops, model="gmm", n_components=2, covariance_type="diag", random_state=0)
    >>> result.status.tolist(), result["b"].means_.shape
    (['converged', 'converged', 'converged'], (2, 2))
    >>> alone = fastem.GaussianMixture(2, covariance_type="diag", random_state=0).fit(X[shops == "b"])
    >>> bool(np.all(alone.means_ == result["b"].means_))
    True
    """
    _check_choice("on_error", on_error, ("status", "warn", "raise"))
    _check_choice("fallback", fallback, (None, "pooled"))
    estimator = template(model, random_state, n_threads, options)
    rows = gather(X, groups, offsets, by, columns, sample_weight)
    if fallback and rows.layout.slices:
        raise ValueError("fallback='pooled' is for groups of rows: groups of columns have no rows in common.")
    result = fit_groups(
        estimator, rows, n_components, candidates, raises=on_error == "raise", pools=fallback is not None
    )
    if on_error == "warn":
        _warn(result)
    return result


def fit_groups(
    estimator: Any,
    rows: Grouped,
    n_components: Any,
    candidates: Iterable[int] = (),
    *,
    raises: bool = False,
    pools: bool = False,
    told: Callable[[int], Any] = int,
) -> ManyFits:
    """Fit every group of rows that have been gathered.

    Parameters
    ----------
    estimator : estimator
        As `template` makes it.
    rows : Grouped
        The rows.
    n_components, candidates
        As in `fit_many`.
    raises : bool
        Whether the first bad group is an error.
    pools : bool
        Whether bad groups get the model of all rows.
    told : callable
        Called after each batch with the number of its groups.

    Returns
    -------
    ManyFits
    """
    numbers = _numbers(n_components, candidates, rows)
    parts, picked = [], []
    for batch in rows.batches():
        own = numbers[:, batch.first : batch.first + len(batch.offsets) - 1]
        fit, which, bic = choosing.fit(estimator, batch, own)
        if raises:
            _raise_for(fit, batch, rows)
        parts.append(fit)
        picked.append((own[which, np.arange(own.shape[1])], bic))
        told(own.shape[1])
    chosen, bics = (np.concatenate(column) for column in zip(*picked, strict=True))
    fit = concatenated(parts)
    is_pooled = np.zeros(len(fit.n_iter), bool)
    if pools:
        fit, is_pooled, chosen = pooling.pooled(estimator, rows, fit, numbers, chosen)
    facts = Facts(chosen, rows.n_features(), _totals(rows), is_pooled, bics)
    return ManyFits(estimator, rows.layout, _as_given(fit, rows), facts, rows.names)


def template(model: Any, random_state: Any, n_threads: int | None, options: dict[str, Any]) -> Any:
    """Return the estimator that is fitted to every group, its parameters checked.

    Raises
    ------
    ValueError, TypeError
        On an unknown model or parameter, or a value that it cannot have.
    """
    if isinstance(model, str):
        if model not in BY_SHORT_NAME:
            raise ValueError(f"model must be an estimator or one of {', '.join(BY_SHORT_NAME)}, got {model!r}.")
        estimator = getattr(fastem, BY_SHORT_NAME[model])()
    elif type(model).__name__ in BY_SHORT_NAME.values() and hasattr(model, "get_params"):
        estimator = clone(model)
    else:
        known = ", ".join(BY_SHORT_NAME.values())
        raise TypeError(f"model must be a name or one of {known}, got {type(model).__name__}.")
    has = set(estimator.get_params(deep=False)) - {"n_components", "n_clusters", "n_threads", "random_state"}
    unknown = sorted(set(options) - has)
    if unknown:
        raise TypeError(f"{type(estimator).__name__} has no parameter {unknown[0]!r}; it has {', '.join(sorted(has))}.")
    seed = estimator.random_state if random_state is None else random_state
    threads_asked = estimator.n_threads if n_threads is None else n_threads
    estimator.set_params(**options, n_threads=threads_asked, random_state=validate.seed(seed))
    estimator._check_parameters()
    if getattr(estimator, "warm_start", False):
        raise ValueError("warm_start goes on from a model's last fit, and a group has none.")
    if getattr(estimator, "checkpoint", None) is not None:
        raise ValueError("checkpoint is of one fit, and these are many.")
    return estimator


def _check_choice(name: str, value: Any, known: tuple[Any, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}.")


def _numbers(n_components: Any, candidates: Iterable[int], rows: Grouped) -> np.ndarray:
    """Return the numbers of components to try (candidates, groups)."""
    n_groups = len(rows.layout.keys)
    if isinstance(n_components, str):
        _check_choice("n_components", n_components, ("bic",))
        tried = sorted(set(candidates))
        if not tried or not all(validate.is_int(k, 1) for k in tried):
            raise ValueError(f"candidates must be integers of at least 1, got {tried}.")
        return np.repeat(np.array(tried, np.int64)[:, None], n_groups, axis=1)
    if isinstance(n_components, Mapping):
        columns = rows.layout.keys.columns()
        n_components = [_looked_up(n_components, key) for key in zip(*(c.tolist() for c in columns), strict=True)]
    each = np.asarray(n_components)
    if (
        each.ndim > 1
        or each.dtype.kind not in "iu"
        or (each.ndim == 1 and len(each) != n_groups)
        or not np.all(each > 0)
    ):
        raise ValueError(
            f"n_components must be a positive integer, one for each of {n_groups} groups, or 'bic'; got "
            f"{n_components!r}."
        )
    return np.broadcast_to(each.astype(np.int64), (1, n_groups))


def _looked_up(numbers: Mapping[Any, int], key: tuple[Any, ...]) -> int:
    plain = key if len(key) > 1 else key[0]
    if plain not in numbers:
        raise ValueError(f"n_components has no number for group {shown(plain)}.")
    return numbers[plain]


def _raise_for(fit: BatchFit, batch: Batch, rows: Grouped) -> None:
    bad = np.flatnonzero(~np.isin(fit.statuses, GOOD))
    if len(bad):
        key = rows.layout.keys.of(batch.first + int(bad[0]))
        raise ValueError(f"Group {shown(key)}: {fit.reasons[int(bad[0])]}")


def _warn(result: ManyFits) -> None:
    bad = int((~np.isin(result._fit.statuses, GOOD)).sum())
    stopped = int((result._fit.statuses == Status.stopped).sum())
    if bad or stopped:
        lines = repr(result).splitlines()[1:]
        warnings.warn(
            f"{bad} of {len(result)} groups could not be fitted as they are, {stopped} were stopped: "
            f"{'; '.join(line.strip() for line in lines)}.",
            ConvergenceWarning,
            stacklevel=3,
        )


def _totals(rows: Grouped) -> np.ndarray:
    """Return the sum of the weights of each group."""
    sizes = np.diff(rows.layout.offsets)
    w = rows.sample_weight
    if not w.size:
        return sizes.astype(np.float64)
    if rows.layout.slices:
        return np.full(len(sizes), w.sum())
    in_order = w if rows.layout.order is None else w[rows.layout.order]
    return np.array([part.sum() for part in np.split(in_order, rows.layout.offsets[1:-1])])


def _as_given(fit: BatchFit, rows: Grouped) -> BatchFit:
    """Return the fits with labels in the order of the rows as they were given."""
    if rows.layout.order is None or not fit.labels.size:
        return fit
    labels = np.empty_like(fit.labels)
    labels[rows.layout.order] = fit.labels
    return fit._replace(labels=labels)
