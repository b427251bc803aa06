"""What users give becomes rows: files, Arrow data, iterators of arrays, collections of Dask."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fastem import validate
from fastem.files import TableError
from fastem.sources.dask_collections import DaskRows, kind_of
from fastem.sources.readers import (
    PIECE_ROWS,
    READABLE,
    ArrayReader,
    ArrowPart,
    ArrowReader,
    CallReader,
    Reader,
    columns_of,
    files_reader,
    fragment_part,
    suffix_of,
)
from fastem.sources.rows import Progress, Stream
from fastem.sources.spool import Spool

CACHES = ("auto", "always", "never")


def is_stream(X: Any) -> bool:
    """Tell whether an estimator is to read `X` as `rows` does: what is no array, matrix or frame in memory."""
    if isinstance(X, np.ndarray):  # nearly always: predict of one row asks three times
        return False
    if isinstance(X, Stream | str | os.PathLike) or kind_of(X) is not None:
        return True
    arrow = type(X).__module__.partition(".")[0] == "pyarrow"
    return arrow or (not hasattr(X, "__array__") and (hasattr(X, "__arrow_c_stream__") or callable(X)))


def opened(X: Any) -> Any:
    """Return a stream of what an estimator reads as one, and all else as it is."""
    return X if isinstance(X, Stream) or not is_stream(X) else rows(X)


def rows(
    data: Any,
    *,
    columns: list[str] | None = None,
    weights: str | None = None,
    dtype: Any = None,
    filter: Any = None,
    header: bool | None = None,
    cache: str = "auto",
    cache_limit: int | None = None,
    cache_folder: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    client: Any = None,
) -> Stream:
    """Return rows of more than memory holds, as all estimators take them in place of an array.

    Parameters
    ----------
    data : str, Path or list of these; Arrow data; callable; ndarray; collection of Dask
        A file (.npy; .parquet; .feather, .arrow; .csv, .tsv, .txt, also .gz, .bz2), several, a folder of them or a
        glob; a pyarrow Table, Dataset or RecordBatchReader, or anything with ``__arrow_c_stream__``; a function that
        returns a fresh iterator of arrays (m, d) at each call; a dask array, a dask DataFrame or delayed arrays.
    columns : list of str, optional
        The features, in this order; by default all columns but that of `weights`.  Columns without a name are called
        x0, x1, and so on.
    weights : str, optional
        The column that holds the weights of the rows.
    dtype : {"float32", "float64"}, optional
        What the rows are read as; by default float32 if all columns are of at most 32 bits, floating point.
    filter : pyarrow.compute.Expression, optional
        Which rows of Parquet, Feather or CSV files, or of a Dataset.
    header : bool, optional
        Whether the first line of a CSV file names its columns; by default it does unless all its fields are numbers.
    cache : {"auto", "always", "never"}, default="auto"
        What happens to rows that cannot be read twice, or are slow to decode (CSV, Parquet, Feather): "auto" writes
        them to a temporary file of numbers at the first pass, if it fits, and reads it from then on; "always" does so
        with all but a .npy file of the right dtype, which is such a file itself; "never" decodes at every pass.
    cache_limit : int, optional
        Bytes of that file; by default nine tenths of what is free in its folder.
    cache_folder : str or Path, optional
        Its folder; by default where the system puts temporary files.  The file has no name where the system allows
        that, and is gone when this object is, however the process ends.
    progress : callable, optional
        Is told of every block of rows that was read (a `Progress`: what, n_rows, of, seconds).
    client : distributed.Client, optional
        What a fit to a collection of Dask runs on; by default the current client or, without one, the local scheduler.

    Returns
    -------
    Stream

    Raises
    ------
    ValueError
        In one sentence, if a file cannot be read, holds no numbers, or has other columns than the others.

    Examples
    --------
    >>> import numpy as np, fastem
    >>> halves = [np.array([[0.0], [1.0]]), np.array([[9.0], [10.0]])]
    >>> stream = fastem.rows(lambda: iter(halves))
    >>> model = fastem.KMeans(2, random_state=0).fit(stream)
    >>> [part.tolist() == model.predict(np.concatenate(halves)).tolist() for part in model.predict(stream)]
    [True]
    """
    if dtype is not None and np.dtype(dtype) not in validate.FLOATS:
        raise ValueError(f"dtype must be 'float32' or 'float64', got {dtype!r}.")
    if kind_of(data) is not None:
        others = {"filter": filter, "header": header, "cache_limit": cache_limit, "cache_folder": cache_folder}
        others |= {"cache": None if cache == "auto" else cache, "progress": progress}
        refused = [f"{name}=" for name, value in others.items() if value is not None]
        if refused:
            raise TypeError(f"{refused[0]} does not go with rows of Dask, which has them read and kept itself.")
        return DaskRows(data, columns=columns, weights=weights, dtype=dtype, client=client)
    if client is not None:
        raise TypeError(f"client= goes with collections of Dask, not with {type(data).__name__}.")
    if cache not in CACHES:
        raise ValueError(f"cache must be one of {', '.join(map(repr, CACHES))}, got {cache!r}.")
    reader = _reader(data, filter, header)
    chosen = columns_of(reader, columns, weights, dtype)
    keep = cache == "always" or (cache == "auto" and (reader.once or reader.slow))
    if reader.once and not keep:
        raise ValueError("These rows can be read only once, so that cache='never' does not do.")
    return Stream(reader, chosen, keep, Spool(cache_folder), cache_limit, progress)


def _reader(data: Any, row_filter: Any, header: bool | None) -> Reader:
    """Return what reads `data`."""
    if isinstance(data, str | os.PathLike):
        return files_reader(_paths(Path(data)), row_filter, header)
    if isinstance(data, list | tuple) and data and all(isinstance(one, str | os.PathLike) for one in data):
        return files_reader([path for one in data for path in _paths(Path(one))], row_filter, header)
    if isinstance(data, np.ndarray) and row_filter is None:
        return ArrayReader(data, "The array")
    if hasattr(data, "__arrow_c_stream__") or type(data).__module__.startswith("pyarrow"):
        return _arrow_reader(data, row_filter)
    if callable(data) and row_filter is None:
        return CallReader(data)
    raise TypeError(
        f"fastem.rows cannot read {type(data).__name__}{' with filter=' if row_filter is not None else ''}."
    )


def _paths(path: Path) -> list[Path]:
    """Return the files that a path names: itself, those of a folder or of a glob, in the order of their names."""
    if path.is_dir():
        inside = sorted(found for found in path.rglob("*") if found.is_file() and suffix_of(found) in READABLE)
        found = [one for one in inside if not any(p.startswith((".", "_")) for p in one.relative_to(path).parts)]
        if not found:
            raise TableError(f"{path} is a folder without a file that fastem reads ({', '.join(READABLE)}).")
        return found
    if not path.exists() and glob.has_magic(str(path)):
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
        if not found:
            raise TableError(f"No file is named like {path}.")
        return found
    if not path.exists():
        raise TableError(f"{path} does not exist.")
    return [path]


def _arrow_reader(data: Any, row_filter: Any) -> Reader:
    import pyarrow as pa
    from pyarrow import dataset

    if isinstance(data, pa.RecordBatch):
        data = pa.Table.from_batches([data])
    if isinstance(data, pa.Table):
        data = dataset.dataset(data)
    if isinstance(data, dataset.Dataset):
        in_memory = isinstance(data, dataset.InMemoryDataset)
        parts = [
            fragment_part(getattr(fragment, "path", "The table"), fragment, row_filter, data.schema)
            for fragment in data.get_fragments()
        ]
        if not parts:
            raise TableError("The dataset has no files.")
        return ArrowReader(parts, slow=not in_memory)
    stream = data if isinstance(data, pa.RecordBatchReader) else pa.RecordBatchReader.from_stream(data)
    if row_filter is not None:
        raise TypeError("filter= goes with files and Datasets; filter these rows where they come from.")
    names = list(stream.schema.names)

    def batches(columns: list[str]) -> Iterator[Any]:
        for batch in stream:
            for first in range(0, len(batch), PIECE_ROWS):
                yield batch.select(columns).slice(first, PIECE_ROWS)

    name = f"The {type(data).__name__}"
    return ArrowReader([ArrowPart(name, names, list(stream.schema.types), None, batches, 0)], once=True)
