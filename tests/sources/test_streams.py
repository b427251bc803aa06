"""Rows from anywhere: files, Arrow data and iterators of arrays give what the same rows in memory give."""

import gc
import logging
import os
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from models_of_sources import same

import fastem
from fastem.grid import CELL
from fastem.sources import opening
from fastem.sources.opening import is_stream
from fastem.sources.spool import Spool

pa = pytest.importorskip("pyarrow")
import pyarrow.compute as pc  # noqa: E402
import pyarrow.csv as arrow_csv  # noqa: E402
import pyarrow.dataset as dataset  # noqa: E402
import pyarrow.feather as feather  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

N, D = 70 * CELL + 77, 3
NAMES = ["a", "b", "c"]


class Exported:
    """What has nothing but the Arrow stream of a table, as frames of other packages have."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


def parts(table):
    """Three ragged parts."""
    return [table.slice(0, 1000), table.slice(1000, 33_333), table.slice(34_333)]


def written(folder, table, suffix):
    for number, part in enumerate(parts(table)):
        path = folder / f"{number}{suffix}"
        if suffix == ".parquet":
            pq.write_table(part, path, row_group_size=10_000)
        elif suffix == ".csv":
            wide = part.cast(pa.schema([(name, pa.float64()) for name in part.column_names]))
            arrow_csv.write_csv(wide, path)
        else:
            feather.write_feather(part, path)
    return folder


def of_npy(folder, table, X):
    np.save(folder / "x.npy", X)
    return folder / "x.npy"


WAYS = {
    "npy": of_npy,
    "npy of float64": lambda f, t, X: fastem.rows(of_npy(f, t, X.astype(np.float64)), dtype="float32"),
    "several npy": lambda f, t, X: [np.save(f / f"{i}.npy", part) for i, part in enumerate(np.array_split(X, 3))] and f,
    "fortran": lambda f, t, X: fastem.rows(np.asfortranarray(X)),
    "parquet": lambda f, t, X: fastem.rows(written(f, t, ".parquet"), columns=NAMES),
    "parquet again": lambda f, t, X: fastem.rows(written(f, t, ".parquet"), columns=NAMES, cache="never"),
    "glob": lambda f, t, X: fastem.rows(str(written(f, t, ".parquet") / "*.parquet"), columns=NAMES),
    "list": lambda f, t, X: fastem.rows(sorted(written(f, t, ".parquet").iterdir()), columns=NAMES),
    "feather": lambda f, t, X: fastem.rows(written(f, t, ".feather"), columns=NAMES),
    "csv": lambda f, t, X: fastem.rows(written(f, t, ".csv"), columns=NAMES, dtype="float32"),
    "table": lambda f, t, X: fastem.rows(t, columns=NAMES),
    "table kept": lambda f, t, X: fastem.rows(t, columns=NAMES, cache="always"),
    "dataset": lambda f, t, X: fastem.rows(dataset.dataset(written(f, t, ".parquet")), columns=NAMES),
    "reader": lambda f, t, X: t.select(NAMES).to_reader(10_000),
    "exported": lambda f, t, X: Exported(t.select(NAMES)),
    "iterator": lambda f, t, X: lambda: iter(np.array_split(X, 7)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_fit_has_the_bits_of_rows_in_memory(way, X, table, tmp_path):
    stream = WAYS[way](tmp_path, table, X)
    assert is_stream(stream)
    params = {"n_clusters": 5, "random_state": 0, "max_iter": 4, "algorithm": "lloyd"}
    want = fastem.KMeans(**params).fit(X)
    found = fastem.KMeans(**params).fit(stream)
    np.testing.assert_array_equal(found.cluster_centers_, want.cluster_centers_)
    assert found.inertia_ == want.inertia_
    assert not hasattr(found, "labels_")


def test_bounds_without_an_array_give_the_bits_of_lloyd(X):
    params = {"n_clusters": 40, "random_state": 0, "max_iter": 6}
    want = fastem.KMeans(algorithm="lloyd", **params).fit(X)
    found = fastem.KMeans(algorithm="hamerly", **params).fit(lambda: iter([X]))
    np.testing.assert_array_equal(found.cluster_centers_, want.cluster_centers_)


def test_methods_give_blocks(X, table):
    stream = fastem.rows(table, columns=NAMES)
    model = fastem.GaussianMixture(3, random_state=0, max_iter=2).fit(stream)
    plain = fastem.GaussianMixture(3, random_state=0, max_iter=2).fit(X)
    assert list(model.feature_names_in_) == NAMES
    for method in ("predict", "predict_proba", "score_samples", "conditional_mean"):
        blocks = getattr(model, method)(stream)
        for _ in range(2):  # they can be read again
            np.testing.assert_array_equal(np.concatenate(list(blocks)), getattr(plain, method)(X))
    assert (model.aic(stream), model.bic(stream)) == (plain.aic(X), plain.bic(X))
    clusters, twin = fastem.KMeans(3, random_state=0).fit(stream), fastem.KMeans(3, random_state=0).fit(X)
    np.testing.assert_array_equal(np.concatenate(list(clusters.transform(stream))), twin.transform(X))
    np.testing.assert_array_equal(clusters.inertia_per_cluster(stream), twin.inertia_per_cluster(X))
    np.testing.assert_array_equal(np.concatenate(list(twin.fit_predict(stream))), clusters.predict(X))
    factors = fastem.FactorAnalysis(1).fit(X)
    np.testing.assert_array_equal(np.concatenate(list(factors.transform(stream))), factors.transform(X))


def test_what_is_built_on_estimators(X, table):
    stream = fastem.rows(table, columns=NAMES)
    want, found = fastem.kmeans_plusplus(X, 4, random_state=0), fastem.kmeans_plusplus(stream, 4, random_state=0)
    assert all(map(same, found, want))
    want, found = fastem.k_means(X, 4, random_state=0), fastem.k_means(stream, 4, random_state=0)
    assert same(found[0], want[0])
    np.testing.assert_array_equal(np.asarray(found[1]), want[1])
    mixture = fastem.GaussianMixture(3, random_state=0, max_iter=3)
    detector, twin = (fastem.AnomalyDetector(mixture, contamination=0.01).fit(rows) for rows in (stream, X))
    assert detector.offset_ == twin.offset_
    np.testing.assert_array_equal(detector.predict(stream), twin.predict(X))
    for attempt in (fastem.select, lambda rows: fastem.LowerBound(detector.estimator_, rows)):
        with pytest.raises(TypeError, match="takes rows in memory: an array or a frame, not Stream"):
            attempt(stream)


def test_few_rows_are_as_in_memory(X):
    few = X[:500]
    want, found = fastem.KMeans(3, random_state=0).fit(few), fastem.KMeans(3, random_state=0).fit(lambda: [few])
    np.testing.assert_array_equal(found.cluster_centers_, want.cluster_centers_)
    assert not hasattr(found, "labels_")


def test_a_filter_and_weights_by_name(X, w, table, tmp_path):
    written(tmp_path, table, ".parquet")
    stream = fastem.rows(tmp_path, columns=["c", "a"], weights="w", filter=pc.field("b") > 0)
    kept = X[:, 1] > 0
    want = fastem.KMeans(3, random_state=0).fit(X[kept][:, [2, 0]], sample_weight=w[kept])
    np.testing.assert_array_equal(fastem.KMeans(3, random_state=0).fit(stream).cluster_centers_, want.cluster_centers_)
    assert stream.shape == (kept.sum(), 2)


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".arrow", ".csv", ".npy"])
def test_labels_are_written_as_they_come(suffix, X, table, tmp_path):
    model = fastem.GaussianMixture(3, random_state=0, max_iter=2).fit(X)
    path = tmp_path / f"labels{suffix}"
    assert fastem.rows(table.select(NAMES).to_reader()).predict_to(path, model, proba=True) == N
    if suffix == ".npy":
        read = np.load(path)
        columns = {name: read[name] for name in read.dtype.names}
    else:
        columns = {name: column.to_numpy() for name, column in _read(path).items()}
    assert list(columns) == ["label", "probability_0", "probability_1", "probability_2"]
    np.testing.assert_array_equal(columns["label"], model.predict(X))
    np.testing.assert_allclose(columns["probability_1"], model.predict_proba(X)[:, 1], rtol=1e-6)


def _read(path):
    table = dataset.dataset(path, format=path.suffix[1:]).to_table()
    return dict(zip(table.column_names, table.columns, strict=True))


# --------------------------------------------------------------------------------------------------- the temporary file


def test_what_is_slow_or_gone_is_kept(X, table, tmp_path, caplog):
    files, spool = tmp_path / "files", tmp_path / "spool"
    files.mkdir()
    spool.mkdir()
    written(files, table, ".parquet")
    with caplog.at_level(logging.INFO, "fastem"):
        stream = fastem.rows(files, columns=NAMES, cache_folder=spool)
        first = np.concatenate(list(stream.source().take(np.arange(5))))
    assert f"decoded {N} rows once, into a temporary file of {4 * D * N / 1e6:.1f} MB in {spool}" in caplog.text
    for path in files.iterdir():
        path.unlink()
    np.testing.assert_array_equal(np.concatenate(list(stream.source().take(np.arange(5)))), first)
    assert not list(spool.iterdir())  # it has no name


def test_a_cache_that_is_too_small_is_not_used(X, table, tmp_path, caplog):
    written(tmp_path, table, ".csv")
    stream = fastem.rows(tmp_path, columns=NAMES, dtype="float32", cache_limit=1000)
    want = fastem.KMeans(3, random_state=0, max_iter=3).fit(X)
    found = fastem.KMeans(3, random_state=0, max_iter=3).fit(stream)
    np.testing.assert_array_equal(found.cluster_centers_, want.cluster_centers_)
    assert "decoded anew at every pass" in caplog.text
    with pytest.raises(ValueError, match="can be read only once, and take at least"):
        fastem.rows(table.select(NAMES).to_reader(), cache_limit=1000).survey()
    with pytest.raises(ValueError, match="only once, so that cache='never' does not do"):
        fastem.rows(table.to_reader(), cache="never")


def test_a_full_disk_is_one_sentence(tmp_path):
    """A limit on the size of files stands for the disk: the spool, arrays of rows and the output."""
    script = """
        import resource, sys, numpy as np, fastem
        from fastem.sources.spool import Spool
        X = np.ones((400_000, 8))
        model = fastem.KMeans(1, init=np.ones((1, 8)), max_iter=1).fit(X[:10])
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        for attempt in (
            lambda: fastem.rows(lambda: iter([X]), cache="always", cache_folder=sys.argv[1]).survey(),
            lambda: Spool(sys.argv[1]).empty(400_000, float),
            lambda: fastem.rows(X).predict_to(sys.argv[1] + "/labels.npy", model),
        ):
            try:
                attempt()
            except ValueError as error:
                print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), tmp_path], capture_output=True, text=True, check=True
    )
    first, second, third = done.stdout.splitlines()
    assert first == second == f"A temporary file in {tmp_path} cannot be written: File too large."
    assert third == f"{tmp_path}/labels.npy cannot be written: File too large."
    assert not list(tmp_path.iterdir())


def test_no_file_and_no_thread_is_left(X, table, tmp_path):
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    stream = fastem.rows(table.select(NAMES).to_reader(), cache_folder=tmp_path)
    fastem.KMeans(3, random_state=0, max_iter=2).fit(stream)
    next(iter(fastem.KMeans(3, random_state=0, max_iter=2).fit(stream).predict(stream)))
    del stream
    gc.collect()
    assert not list(tmp_path.iterdir())
    assert not [thread for thread in threading.enumerate() if thread.name == "fastem-reader"]
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before


def test_arrays_of_a_spool_are_files_from_a_size_on(tmp_path):
    spool = Spool(tmp_path)
    large, small = spool.empty(1 << 20, np.float64), spool.empty(3, np.int32)
    large[:] = 1.5
    assert (large.sum(), small.shape) == (1.5 * (1 << 20), (3,))
    assert large.base is not None
    assert small.base is None


# --------------------------------------------------------------------------------------------------------- bad weather


def refused(match, make):
    with pytest.raises(ValueError, match=match) as raised:
        fastem.KMeans(2, random_state=0).fit(make())
    assert "\n" not in str(raised.value)


def test_a_damaged_parquet_file_in_a_folder(table, tmp_path):
    for number, part in enumerate(parts(table)):
        pq.write_table(part, tmp_path / f"{number}.parquet", write_page_checksum=True, row_group_size=10_000)
    path = tmp_path / "1.parquet"
    damaged = bytearray(path.read_bytes())
    page = pq.ParquetFile(path).metadata.row_group(2).column(1).data_page_offset + 1000
    damaged[page : page + 100] = bytes(100)
    path.write_bytes(damaged)
    refused(
        r"1\.parquet cannot be read( after data row [12]0000)?: could not verify",
        lambda: fastem.rows(tmp_path, columns=NAMES),
    )
    path.write_bytes(damaged[:page])
    refused(r"1\.parquet cannot be read: ", lambda: fastem.rows(tmp_path, columns=NAMES))
    path.write_bytes(b"")
    refused(r"1\.parquet is empty", lambda: tmp_path)


def test_a_file_that_vanishes(table, tmp_path):
    written(tmp_path, table, ".parquet")
    stream = fastem.rows(tmp_path, columns=NAMES)
    (tmp_path / "2.parquet").unlink()
    refused(r"2\.parquet does not exist", lambda: stream)


def test_a_file_that_vanishes_between_passes(table, tmp_path):
    """Of rows that are decoded anew; what was kept of them needs the files no more (tested above)."""
    written(tmp_path, table, ".parquet")
    stream = fastem.rows(tmp_path, columns=NAMES, cache="never")
    clusters = fastem.KMeans(2, random_state=0, callback=lambda info: (tmp_path / "2.parquet").unlink())
    with pytest.raises(ValueError, match=r"2\.parquet does not exist") as raised:
        clusters.fit(stream)
    assert "\n" not in str(raised.value)
    assert not hasattr(clusters, "cluster_centers_")


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_columns_that_differ_between_files(suffix, table, tmp_path):
    written(tmp_path, table, suffix)
    (tmp_path / f"1{suffix}").unlink()
    other = written_one(tmp_path / f"1{suffix}", parts(table)[1].rename_columns(["a", "x", "c", "w"]))
    refused(rf'1{suffix} has no column "b", which .*0{suffix} has; it has "a", "x", "c", "w"', lambda: tmp_path)
    assert other.exists()


def written_one(path, table):
    (pq.write_table if path.suffix == ".parquet" else arrow_csv.write_csv)(table, path)
    return path


def test_columns_in_another_order_are_the_same_columns(X, table, tmp_path):
    written(tmp_path, table, ".csv")
    (tmp_path / "1.csv").unlink()
    written_one(tmp_path / "1.csv", parts(table)[1].select(["w", "c", "b", "a"]))
    stream = fastem.rows(tmp_path, columns=NAMES, dtype="float32")
    np.testing.assert_array_equal(stream.source().take(np.arange(900, 1100)), X[900:1100])


def test_text_far_down(table, tmp_path):
    written(tmp_path, table, ".csv")
    lines = (tmp_path / "2.csv").read_text().splitlines()
    lines[70_001] = "1.5,far down,2.5,1"
    (tmp_path / "2.csv").write_text("\n".join(lines))
    refused(r'2\.csv: column "b" \("far down" in data row 70001\) is not numeric', lambda: tmp_path)


def test_text_in_a_parquet_column(tmp_path):
    column = ["1.5"] * 100_000 + ["oops"] + ["2"] * 5
    pq.write_table(pa.table({"a": column, "b": np.arange(100_006.0)}), tmp_path / "t.parquet")
    refused(r't\.parquet: column "a" \("oops" in data row 100001\) is not numeric', lambda: tmp_path / "t.parquet")


@pytest.mark.parametrize(("value", "said"), [(np.nan, "NaN"), (np.inf, "infinity")])
def test_values_that_no_model_takes(value, said, X, table, tmp_path):
    bad = X.copy()
    bad[40_000, 1] = value
    path = tmp_path / "files"
    path.mkdir()
    written(path, pa.table(dict(zip(NAMES, bad.T, strict=True))), ".parquet")
    place = r"first at row 40000, column 1 \(data row 5668 of .*2\.parquet\)"
    refused(f"Input X contains {said} .{place}", lambda: path)


def test_a_float32_value_whose_square_is_none(X):
    large = X.copy()
    large[:, 0] *= np.float32(1e18)
    want = fastem.KMeans(2, random_state=0, max_iter=3).fit(large)
    found = fastem.KMeans(2, random_state=0, max_iter=3).fit(lambda: iter([large]))
    assert want.cluster_centers_.dtype == np.float64
    np.testing.assert_array_equal(found.cluster_centers_, want.cluster_centers_)


def test_codes_are_refused_by_the_row(X):
    bad = np.abs(np.round(X))
    bad[100_000, 2] = 0.5
    with pytest.raises(ValueError, match=r"integer codes: 0\.5 at row 34464, column 2, counted from row 65536 on"):
        fastem.CategoricalMixture(2).fit(lambda: iter([bad]))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (lambda: iter([]), "The iterator of arrays is empty"),
        (lambda: iter([np.ones((2, 2)), np.ones((2, 3))]), "Array 1 of the iterator has 3 columns, not 2"),
        (lambda: iter([np.ones(3)]), "Array 0 of the iterator must be two-dimensional"),
        ("nothing.parquet", "nothing.parquet does not exist"),
        ("*.nothing", "No file is named like"),
        (__file__, "has an unknown suffix"),
    ],
)
def test_what_is_no_stream(data, match):
    refused(match, lambda: data)


def test_weights_are_checked(X, w):
    table = pa.table({"a": X[:, 0], "w": np.where(np.arange(N) == 70_000, -1.0, w)})
    with pytest.raises(ValueError, match="at least 0, got -1 in The table, data row 70001"):
        fastem.rows(table, weights="w").survey()
    with pytest.raises(ValueError, match="at least one non-zero"):
        fastem.rows(pa.table({"a": [1.0, 2.0], "w": [0.0, 0.0]}), weights="w").survey()


def test_features_are_compared_with_those_of_the_fit(table):
    model = fastem.KMeans(2, random_state=0).fit(fastem.rows(table, columns=["a", "b"]))
    with pytest.raises(ValueError, match="X has 3 features, but KMeans is expecting 2 features"):
        model.predict(fastem.rows(table, columns=NAMES))
    with pytest.raises(
        ValueError, match="feature names should match those that were passed during fit: a, b; got b, a"
    ):
        model.predict(fastem.rows(table, columns=["b", "a"]))
    with pytest.raises(ValueError, match='There is no column "z"'):
        fastem.rows(table, columns=["z"])


def test_models_of_streams_are_saved(X, tmp_path):
    model = fastem.KMeans(3, random_state=0).fit(lambda: iter([X]))
    fastem.save(model, tmp_path / "m.npz")
    np.testing.assert_array_equal(fastem.load(tmp_path / "m.npz").predict(X), model.predict(X))


def test_progress_is_told(X):
    told = []
    stream = fastem.rows(lambda: iter(np.array_split(X, 9)), progress=told.append)
    fastem.KMeans(2, random_state=0, max_iter=2).fit(stream)
    assert told[0].what == "reading"
    assert told[0].of is None
    passes = [info for info in told if info.what == "pass 1"]
    assert [info.n_rows for info in passes] == [64 * CELL, N]
    assert passes[0].of == N


@pytest.mark.deep
def test_memory_is_bounded_whatever_the_number_of_rows(tmp_path):
    """Private memory of a fit to 40 million rows (1.3 GB) from .npy and from an iterator; pages of files apart."""
    script = """
        import sys, numpy as np, fastem
        kind, n = sys.argv[1], 40_000_000
        part = np.random.default_rng(0).normal(size=(1_000_000, 8)).astype(np.float32)
        if kind == "npy":
            rows = np.lib.format.open_memmap(sys.argv[2] + "/x.npy", "w+", np.float32, (n, 8))
            for first in range(0, n, len(part)):
                rows[first : first + len(part)] = part
            rows = sys.argv[2] + "/x.npy"
        else:
            rows = lambda: (part for _ in range(n // len(part)))
        fastem.KMeans(4, random_state=0, max_iter=2).fit(rows)
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        print(int(status["RssAnon"].split()[0]) // 1024)
    """
    for kind in ("npy", "iterator"):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), kind, tmp_path],
            capture_output=True, text=True, check=True, env={**os.environ, "TMPDIR": str(tmp_path)},
        )  # fmt: skip
        assert int(done.stdout) < 500, kind


def test_the_front_of_streams_says_what_it_reads():
    assert set(opening.READABLE) >= {".npy", ".parquet", ".feather", ".arrow", ".csv"}
    with pytest.raises(TypeError, match=r"fastem\.rows cannot read int"):
        fastem.rows(3)
    with pytest.raises(ValueError, match="cache must be one of"):
        fastem.rows(np.ones((2, 2)), cache="sometimes")
    with pytest.raises(ValueError, match="dtype must be"):
        fastem.rows(np.ones((2, 2)), dtype="int8")
