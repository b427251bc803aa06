"""Dask's collections as rows: an array, a frame or delayed blocks become a source, and methods of them stay lazy."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastem import grid, validate
from fastem.files import TableError
from fastem.sources.base import Source
from fastem.sources.dask import Blocks, DaskSource
from fastem.sources.dask_tasks import client_of, computed, held, persisted, tasks_of, threads_of_task
from fastem.sources.ragged import Ragged
from fastem.sources.readers import chosen_of
from fastem.sources.reading import Piece
from fastem.sources.rows import Stream
from fastem.sources.spool import Spool
from fastem.sources.stream import FileSource
from fastem.sources.survey import Facts, Place, Survey

ARRAY, FRAME, SERIES, DELAYED = "array", "frame", "series", "delayed"


def kind_of(X: Any) -> str | None:
    """Name the kind of Dask's collection that `X` is, or None."""
    if "dask" not in sys.modules or isinstance(X, np.ndarray):
        return None
    if isinstance(X, list | tuple):
        return DELAYED if len(X) and all(kind_of(one) == DELAYED for one in X) else None
    module = type(X).__module__.partition(".")[0]
    if module not in ("dask", "dask_expr") or not hasattr(X, "__dask_graph__"):
        return None
    if type(X).__module__.startswith("dask.delayed"):
        return DELAYED
    if hasattr(X, "chunks") and hasattr(X, "rechunk"):
        return ARRAY
    return FRAME if hasattr(X, "columns") else SERIES


def gathered(values: Any, rows: Any) -> Any:
    """Return weights of Dask as an array here, computed on the client of the rows; and all else as it is."""
    kind, client = kind_of(values), getattr(rows, "client", None)
    if kind is None:
        return values
    if kind == DELAYED:
        return np.concatenate(computed(values if isinstance(values, list | tuple) else [values], client))
    return np.asarray(computed([values], client)[0])


def _opened(part: Any, number: int, dtype: np.dtype | None) -> np.ndarray:
    """Return a partition as an array (m, d) that kernels can trust."""
    try:
        if hasattr(part, "to_numpy"):
            part = part.to_numpy(dtype, na_value=np.nan)
        X = np.asarray(part)
        if X.ndim != 2:
            raise ValueError(f"it must be two-dimensional, and has shape {X.shape}")
        if dtype is None:
            dtype = np.dtype(np.float32 if X.dtype == np.float32 else np.float64)
        if X.dtype.kind not in "fiubO":
            raise ValueError(f"its dtype {X.dtype} is not numeric")
        return np.ascontiguousarray(X, dtype)
    except (TypeError, ValueError) as error:
        raise TableError(f"Partition {number} cannot be read as numbers: {error}.") from error


def _facts(X: np.ndarray, number: int) -> tuple[tuple[int, ...], np.dtype, Facts]:
    survey, file = Survey(), f"partition {number}"
    for first in range(0, len(X), validate.CHUNK_ROWS):
        survey.see(Piece(X[first : first + validate.CHUNK_ROWS], None, file, first))
    facts = Facts(survey.n_rows, survey.nan, survey.infinity, survey.largest, survey.value, survey.squares)
    return X.shape, X.dtype, facts


def _cast(X: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return X.astype(dtype)


def _cast_to(arrays: list[Any], dtype: np.dtype) -> list[Any]:
    return tasks_of(_cast, "cast", [(number, array, dtype) for number, array in enumerate(arrays)])


class DaskRows(Stream):
    """Rows in a collection of Dask, as estimators take them.

    Parameters
    ----------
    collection : dask Array, DataFrame, Delayed or a sequence of Delayed
        The rows.
    columns, weights, dtype, client
        As of `opening.rows`.
    """

    def __init__(
        self,
        collection: Any,
        *,
        columns: list[str] | None = None,
        weights: str | None = None,
        dtype: Any = None,
        client: Any = None,
    ) -> None:
        kind = kind_of(collection)
        if kind == ARRAY and collection.ndim != 2:
            raise ValueError(f"Expected 2D array, got a dask array of shape {collection.shape}.")
        if kind == ARRAY and len(collection.chunks[1]) > 1:
            collection = collection.rechunk({1: -1})
        if kind == SERIES:
            raise ValueError("Expected rows of features: a dask DataFrame, not a Series.")
        if kind == DELAYED and not isinstance(collection, list | tuple):
            collection = [collection]
        self.kind, self.client = kind, client
        self.progress = None
        self._weights = np.empty(0)
        self._weighing: Any = None
        self._spool = Spool()
        self._known: Facts | None = None
        self._names: list[str] | None = None
        self._dtype = None if dtype is None else np.dtype(dtype)
        if kind == DELAYED and (columns is not None or weights is not None):
            raise TypeError("columns= and weights= do not go with delayed arrays, whose columns nobody knows yet.")
        self.collection = collection if kind == DELAYED else self._chosen(collection, columns, weights)
        self.named = kind == FRAME and all(isinstance(name, str) for name in self.collection.columns)

    def _chosen(self, collection: Any, columns: list[str] | None, weights: str | None) -> Any:
        """Return the columns that are features; names, dtype and weights are taken down."""
        frame = self.kind == FRAME
        every = list(collection.columns) if frame else [f"x{j}" for j in range(collection.shape[1])]
        features = chosen_of(every, columns, weights)
        dtypes = dict(collection.dtypes) if frame else dict.fromkeys(every, collection.dtype)
        read = [*features, *([] if weights is None else [weights])]
        bad = [name for name in read if getattr(dtypes[name], "kind", "O") not in "fiubO"]
        if bad:
            raise TableError(f'Column "{bad[0]}" is not numeric.')
        if self._dtype is None:
            narrow = all(dtypes[name] == np.float32 for name in features)
            self._dtype = np.dtype(np.float32 if narrow else np.float64)
        if weights is not None:
            self._weighing = collection[weights] if frame else collection[:, every.index(weights)]
        self._names = [str(name) for name in features]
        if features == every:
            return collection
        return collection[features] if frame else collection[:, [every.index(name) for name in features]]

    def __repr__(self) -> str:
        return f"<rows of Dask: {self.kind}>"

    @property
    def names(self) -> list[str]:  # type: ignore[override]
        """The features."""
        if self._names is None:
            self.survey()
        assert self._names is not None
        return self._names

    @property
    def dtype(self) -> np.dtype:  # type: ignore[override]
        """What the rows are read as."""
        if self._dtype is None:
            self.survey()
        assert self._dtype is not None
        return self._dtype

    @property
    def n_rows(self) -> int | None:
        """Number of rows; None where no pass has counted them yet."""
        return None if self._known is None else self._known.n_rows

    @property
    def weighted(self) -> bool:
        """Whether a column holds weights."""
        return self._weighing is not None

    def weights(self) -> np.ndarray:
        """Return the weights (n,) float64 of the column that holds them, or an empty array."""
        if self.weighted and not self._weights.size:
            (found,) = computed([self._weighing], self.client)
            self._weights = np.asarray(found, np.float64)
        return self._weights

    def partitions(self) -> Sequence[Any]:
        """Return the partitions as delayed objects."""
        delayed = self.collection if self.kind == DELAYED else np.ravel(self.collection.to_delayed())
        return [held(part) for part in delayed]

    def survey(self) -> Facts:
        """Read all partitions, the first time: count rows, and look for what no model takes.

        Raises
        ------
        ValueError
            In one sentence, for a partition that cannot be read, or if there are no rows.
        """
        if self._known is None:
            parts = [(i, part, i, self._dtype) for i, part in enumerate(self.partitions())]
            arrays = tasks_of(_opened, "open", parts)
            facts = tasks_of(_facts, "survey", [(i, array, i) for i, array in enumerate(arrays)])
            self._keep = client_of(self.client) is not None
            if self._keep:
                kept = persisted([*arrays, *facts], self.client)
                arrays, facts = kept[: len(arrays)], kept[len(arrays) :]
            self._arrays = arrays
            self._known = self._merged(computed(facts, self.client))
        return self._known

    def _merged(self, found: list[Any]) -> Facts:
        shapes = [shape for shape, _, _ in found]
        self._lengths = [n_rows for n_rows, _ in shapes]
        filled = [number for number, n_rows in enumerate(self._lengths) if n_rows]
        if not filled:
            raise TableError("There are no rows.")
        widths = {shapes[number][1] for number in filled}
        if len(widths) > 1:
            width = shapes[filled[0]][1]
            other = next(number for number in filled if shapes[number][1] != width)
            raise TableError(f"Partition {other} has {shapes[other][1]} columns, partition {filled[0]} has {width}.")
        if self._names is None:
            self._names = [f"x{j}" for j in range(widths.pop())]
        dtypes = {dtype for shape, dtype, _ in found if shape[0]}
        self._dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float64)
        if dtypes:
            self._arrays = _cast_to(self._arrays, self._dtype)
        offsets, facts = Ragged(self._lengths).offsets.tolist(), [facts for _, _, facts in found]

        def first(name: str) -> Place | None:
            places = [(offset, getattr(one, name)) for offset, one in zip(offsets, facts, strict=False)]
            return next((place._replace(row=place.row + offset) for offset, place in places if place), None)

        most = int(np.argmax([one.value for one in facts]))
        largest = facts[most].largest
        return Facts(
            offsets[-1], first("nan"), first("infinity"),
            largest and largest._replace(row=largest.row + offsets[most]), facts[most].value,
            sum(one.squares for one in facts),
        )  # fmt: skip

    def source(self, dtype: np.dtype | None = None) -> Source:
        """Return the rows as what a fit passes over."""
        facts = self.survey()
        source: Source
        arrays, lengths = self._arrays, self._lengths
        if dtype is not None and dtype != self.dtype:
            arrays = _cast_to(arrays, dtype)
        dtype = self.dtype if dtype is None else dtype
        filled = [number for number, n_rows in enumerate(lengths) if n_rows]
        if facts.n_rows <= grid.CELL:  # so few are held here, where they have ways of their own
            X = np.concatenate(computed([arrays[number] for number in filled], self.client))
            source = FileSource(X, self.weights(), spool=self._spool)
        else:
            home = Blocks(arrays, lengths, len(self.names) * dtype.itemsize, self._keep, self.client)
            source = DaskSource(home, len(self.names), dtype, self.weights())
        source.has_nan = facts.nan is not None
        source.client = self.client
        return source

    def blocks(self) -> Any:
        """Yield the partitions as arrays."""
        self.survey()
        for number, n_rows in enumerate(self._lengths):
            if n_rows:
                yield computed([self._arrays[number]], self.client)[0]

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> Stream:
        """Return the rows that a function makes of the rows (m, d): (m, d), of the same dtype, with the same names."""
        other = copy.copy(self)
        other._known = None
        if self.kind == ARRAY:
            other.collection = self.collection.map_blocks(function, dtype=self.dtype)
        elif self.kind == FRAME:
            raise TypeError("A dask DataFrame is not mapped: take its values, a dask array.")
        else:
            import dask

            other.collection = [dask.delayed(function)(part) for part in self.collection]
        return other

    # --------------------------------------------------------------------------------------------------- lazy methods

    def lazily(self, model: Any, method: Callable[[Any, Any], Any]) -> Any:
        """Return what a method of rows makes of each partition, of the collection's own kind.

        Parameters
        ----------
        model : estimator
            A fitted model that takes rows without names.
        method : callable
            ``method(model, X)`` of rows in memory (m, d), which returns an array of m entries or rows.
        """
        example = np.asarray(method(model, np.zeros((1, len(self.names)), self.dtype)))
        tail, dtype = example.shape[1:], example.dtype
        n_parts = self.collection.npartitions if self.kind != DELAYED else len(self.collection)
        call = Call(model, method, self.dtype, tail, dtype, n_parts)
        if self.kind == ARRAY:
            chunks = (self.collection.chunks[0], *[(width,) for width in tail])
            drop = [] if tail else [1]
            meta = np.empty((0,) * example.ndim, dtype)
            return self.collection.map_blocks(call, drop_axis=drop, chunks=chunks, dtype=dtype, meta=meta)
        if self.kind == FRAME:
            import pandas as pd

            index = self.collection._meta.index
            empty = np.empty((0, *tail), dtype)
            meta = pd.DataFrame(empty, index=index) if tail else pd.Series(empty, index=index)
            return self.collection.map_partitions(call, meta=meta)
        return tasks_of(call, "method", enumerate(self.partitions()))

    def all_of(self, model: Any, method: Callable[[Any, Any], tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
        """Return the arrays that a method makes of all rows, here."""
        self.survey()
        calls = [(i, model, self._arrays[i]) for i, n_rows in enumerate(self._lengths) if n_rows]
        found = computed(tasks_of(method, "method", calls), self.client)
        return tuple(np.concatenate(column) for column in zip(*found, strict=True))


class Call:
    """A method of a fitted model, as a function of one partition."""

    def __init__(self, model: Any, method: Any, dtype: Any, tail: tuple[int, ...], result: Any, n_parts: int) -> None:
        self.model, self.method, self.dtype, self.tail = model, method, dtype, tail
        self.result, self.n_parts = result, n_parts

    def __call__(self, part: Any) -> Any:
        X = _opened(part, 0, self.dtype)
        if len(X):
            model = copy.copy(self.model)
            model.n_threads = threads_of_task(self.n_parts, None)
            values = np.asarray(self.method(model, X)).astype(self.result, copy=False)
        else:
            values = np.empty((0, *self.tail), self.result)
        if not hasattr(part, "index") or not hasattr(part, "iloc"):
            return values
        import pandas as pd

        return pd.DataFrame(values, index=part.index) if self.tail else pd.Series(values, index=part.index)
