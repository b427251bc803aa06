"""Rows that are read when they are needed, as what every estimator takes in place of an array."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastem import grid
from fastem.files import FileError
from fastem.sources.base import Source
from fastem.sources.readers import ArrayReader, CallReader, Columns, Reader, columns_of
from fastem.sources.reading import Piece, ahead, cut
from fastem.sources.spool import Column, Spool
from fastem.sources.stream import FileSource, StreamSource
from fastem.sources.survey import Facts, Survey, checked_weights
from fastem.sources.writing import write_blocks

LOG = logging.getLogger("fastem")
# A cache leaves this part of what is free in its folder.
KEPT_FREE = 0.1


class Progress(NamedTuple):
    """How far a pass over the rows is."""

    what: str  # "reading" at the first pass, then "pass 2", ...
    n_rows: int  # that are done
    of: int | None  # how many there are, where that is known
    seconds: float  # since the pass began


class Stream:
    """Rows that are read when they are needed; made by `opening.rows`.

    Attributes
    ----------
    names : list of str
        The features.
    named : bool
        False where the names x0, x1, ... are ours.
    dtype : dtype
        What the rows are read as.
    """

    def __init__(
        self,
        reader: Reader,
        columns: Columns,
        keep: bool,
        spool: Spool,
        limit: int | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._reader, self._columns, self._keep, self._spool, self._limit = reader, columns, keep, spool, limit
        self.names, self.named, self.dtype = columns.features, reader.named, columns.dtype
        self.progress = progress
        self._facts: Facts | None = None
        self._array = reader.array(columns)
        self._weights = np.empty(0)
        self._gone = False
        self._passes = 0

    def __repr__(self) -> str:
        n = self.n_rows
        return f"<rows: {'?' if n is None else n} x {len(self.names)}, {self.dtype}>"

    @property
    def n_rows(self) -> int | None:
        """Number of rows; None where no pass has counted them yet."""
        return self._facts.n_rows if self._facts is not None else self._reader.n_rows

    # --------------------------------------------------------------------------------------------------- first pass

    def survey(self) -> Facts:
        """Read all rows, the first time: count them, look for what no model takes, and keep them if they are kept.

        Raises
        ------
        ValueError
            In one sentence, for whatever is wrong with a file or a weight, or if there are no rows.
        """
        if self._facts is None:
            if self._gone:
                raise ValueError("These rows can be read only once, and have been.")
            self._facts = self._first_pass()
        return self._facts

    def _first_pass(self) -> Facts:
        spooled = self._column() if self._array is None else None
        weighed = None if self._columns.weights is None else self._spool.column(np.float64)
        survey = Survey()
        begun, self._gone = time.monotonic(), self._reader.once
        with closing(ahead(self._reader.pieces(self._columns))) as pieces:
            for piece in self._watched(pieces, "reading", lambda piece: len(piece.X)):
                survey.see(piece)
                if spooled is not None:
                    spooled = self._kept(spooled, piece)
                if weighed is not None:
                    weighed.append(checked_weights(piece))
        facts = survey.facts()
        if weighed is not None:
            self._weights = weighed.mapped()
            if not np.any(self._weights > 0):
                raise ValueError("Sample weights must contain at least one non-zero number.")
        if spooled is not None:
            self._array = spooled.mapped()
            LOG.info(
                "decoded %d rows once, into a temporary file of %.1f MB in %s, in %.1f s",
                facts.n_rows, spooled.n_bytes / 1e6, self._spool.folder, time.monotonic() - begun,
            )  # fmt: skip
        return facts

    def _allowed(self) -> int:
        """Bytes that the cache may take."""
        free = int((1 - KEPT_FREE) * shutil.disk_usage(self._spool.folder).free)
        return free if self._limit is None else min(free, self._limit)

    def _column(self) -> Column | None:
        """Return the file that the rows are to be kept in; None if they are not kept, or known not to fit."""
        if not self._keep:
            return None
        try:
            self._most = self._allowed()
        except OSError as error:
            raise FileError(f"{self._spool.folder} cannot hold temporary files: {error.strerror}.") from None
        known = self._reader.n_rows
        n_bytes = 0 if known is None else known * len(self.names) * self.dtype.itemsize
        if n_bytes > self._most:
            self._too_large(n_bytes)
            return None
        return self._spool.column(self.dtype, len(self.names))

    def _kept(self, column: Column, piece: Piece) -> Column | None:
        if column.n_bytes + piece.X.nbytes > self._most:
            column.close()
            self._too_large(column.n_bytes + piece.X.nbytes)
            return None
        column.append(piece.X)
        return column

    def _too_large(self, n_bytes: int) -> None:
        if self._reader.once:
            raise FileError(
                f"These rows can be read only once, and take at least {n_bytes} bytes in {self._spool.folder}, where "
                f"{self._most} are allowed: see cache_limit and cache_folder of fastem.rows."
            )
        LOG.warning(
            "rows are decoded anew at every pass: %d bytes or more in %s, where %d are allowed",
            n_bytes, self._spool.folder, self._most,
        )  # fmt: skip

    # ----------------------------------------------------------------------------------------------------- afterwards

    def _watched(self, items: Iterator[Any], what: str, size: Callable[[Any], int]) -> Iterator[Any]:
        """Yield the same items, and tell of them."""
        done, begun = 0, time.monotonic()
        for item in items:
            yield item
            done += size(item)
            if self.progress is not None:
                self.progress(Progress(what, done, self.n_rows, time.monotonic() - begun))

    def blocks(self) -> Generator[np.ndarray, None, None]:
        """Yield all rows in blocks that begin on the grid, read by a thread of their own."""
        with closing(ahead(self._blocks(self.dtype))) as blocks:
            yield from blocks

    def _blocks(self, dtype: np.dtype) -> Iterator[np.ndarray]:
        self._passes += 1
        what = f"pass {self._passes}"
        if self._array is not None:
            pieces = ArrayReader(self._array, "").pieces(
                Columns([f"x{j}" for j in range(len(self.names))], None, dtype)
            )
        elif self._reader.once:
            if self._gone:
                raise ValueError("These rows can be read only once, and have been.")
            self._gone, pieces = True, self._reader.pieces(self._columns)
        else:
            pieces = self._reader.pieces(self._columns)
        return self._watched(cut(piece.X.astype(dtype, copy=False) for piece in pieces), what, len)

    def source(self, dtype: np.dtype | None = None) -> Source:
        """Return the rows as what a fit passes over, with the weights of their column."""
        facts = self.survey()
        source = self._source(facts.n_rows, self.dtype if dtype is None else dtype)
        source.has_nan = facts.nan is not None  # without another pass
        return source

    def _source(self, n_rows: int, dtype: np.dtype) -> Source:
        if n_rows <= grid.CELL:  # so few are held in memory, where they have ways of their own
            X = np.concatenate([np.asarray(part) for part in self._blocks(dtype)])
            return FileSource(X, self._weights, spool=self._spool)
        if self._array is not None and self._array.dtype == dtype:
            return FileSource(self._array, self._weights, spool=self._spool)
        shape = (n_rows, len(self.names))
        return StreamSource(lambda: self._blocks(dtype), shape, dtype, self._weights, spool=self._spool)

    @property
    def weighted(self) -> bool:
        """Whether a column holds weights."""
        return self._columns.weights is not None or self._weights.size > 0

    def weights(self) -> np.ndarray:
        """Return the weights (n,) float64 of the column that holds them, or an empty array."""
        self.survey()
        return self._weights

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and features; counts the rows if nobody has."""
        return self.survey().n_rows, len(self.names)

    def __len__(self) -> int:
        return self.survey().n_rows

    def selected(self, columns: list[str]) -> Stream:
        """Return some of the columns of the same files, which are not looked for anew."""
        chosen = columns_of(self._reader, columns)
        return Stream(self._reader, chosen, self._keep, self._spool, self._limit, self.progress)

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> Stream:
        """Return the rows that a function makes of the rows (m, d): (m, d), of the same dtype, with the same names."""
        weights = self.weights()
        reader = CallReader(lambda: map(function, self.blocks()))
        columns = Columns(reader.names, None, self.dtype)
        other = Stream(reader, columns, self._keep, self._spool, self._limit, self.progress)
        other.names, other.named, other._weights = self.names, self.named, weights
        return other

    def predict_to(self, path: str | Path, model: Any, *, proba: bool = False) -> int:
        """Write the label of each row to a file, as a fitted model predicts them; the file appears whole or not at all.

        Parameters
        ----------
        path : str or Path
            A .parquet, .feather, .arrow, .csv or .npy file, with a column "label".
        model : estimator
            A fitted model of this package, with `predict`.
        proba : bool, default=False
            Whether to write the probability of each component, too ("probability_0", ...), of a mixture.

        Returns
        -------
        int
            How many rows were written.

        Raises
        ------
        ValueError
            In one sentence, if the rows cannot be read or the file cannot be written.

        Examples
        --------
        >>> import numpy as np, fastem, pathlib, tempfile
        >>> X = np.array([[0.0], [1.0], [9.0], [10.0]])
        >>> model = fastem.KMeans(2, random_state=0).fit(X)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "labels.npy"
        ...     n_rows = fastem.rows(X).predict_to(path, model)
        ...     n_rows, bool((np.load(path) == model.labels_).all())
        (4, True)
        """
        if not proba:
            return write_blocks(path, ({"label": labels.astype(np.int32)} for labels in model.predict(self)))
        self.survey()  # what can be read only once is kept, to be read twice
        both = zip(model.predict(self), model.predict_proba(self), strict=True)
        return write_blocks(
            path,
            (
                {"label": labels.astype(np.int32)} | {f"probability_{c}": column for c, column in enumerate(parts.T)}
                for labels, parts in both
            ),
        )

    def column(self, dtype: Any, n_features: int | None = None) -> Column:
        """Return an array that grows, where temporary files of these rows lie."""
        return self._spool.column(dtype, n_features)
