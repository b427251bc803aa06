"""Reading tables: every format, every mistake, one sentence each."""

import decimal
import gzip

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402
from pyarrow import ipc  # noqa: E402

from fastem.cli.tables import TableError, open_table, read_table, split_names  # noqa: E402


def read(path, columns=None, **options):
    return read_table(open_table(path, **options), columns)


def refusal(path, columns=None, **options):
    with pytest.raises(TableError) as caught:
        read(path, columns, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


@pytest.fixture
def write(tmp_path):
    def write(text, name="t.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return write


def write_feather(table, path):
    with pa.OSFile(str(path), "wb") as sink, ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".arrow"])
def test_arrow_formats_give_the_chosen_columns_in_order(tmp_path, suffix):
    table = pa.table({"a": [1, 2], "name": ["u", "v"], "b": [0.5, 1.5]})
    path = tmp_path / f"t{suffix}"
    pq.write_table(table, path) if suffix == ".parquet" else write_feather(table, path)
    X, columns = read(path, ["b", "a"])
    np.testing.assert_array_equal(X, [[0.5, 1], [1.5, 2]])
    assert columns == ["b", "a"]
    assert X.flags.c_contiguous
    assert "name" in refusal(path)


def test_kinds_of_numbers(tmp_path):
    table = pa.table(
        {
            "int": pa.array([1, 2], pa.int8()),
            "big": pa.array([2**60, 2**63], pa.uint64()),
            "bool": [True, False],
            "half": np.array([0.5, 1.5], np.float16),
            "decimal": [decimal.Decimal("1.25"), decimal.Decimal("-3")],
            "category": pa.array([7, 8]).dictionary_encode(),
            "digits": ["1.5", " 2e3 "],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    X = read(tmp_path / "t.parquet").X
    assert X.dtype == np.float64
    np.testing.assert_array_equal(X[0], [1, 2.0**60, 1, 0.5, 1.25, 7, 1.5])
    np.testing.assert_array_equal(X[1], [2, 2.0**63, 0, 1.5, -3, 8, 2000])


def test_float32_stays_float32_only_where_every_column_is(tmp_path):
    pq.write_table(pa.table({"a": np.float32([1, 2]), "b": [1, 2]}), tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet", ["a"]).X.dtype == np.float32
    assert read(tmp_path / "t.parquet").X.dtype == np.float64


@pytest.mark.parametrize(
    ("array", "shape", "dtype"),
    [
        (np.arange(6.0).reshape(2, 3), (2, 3), np.float64),
        (np.asfortranarray(np.arange(6.0).reshape(2, 3)), (2, 3), np.float64),
        (np.ones((2, 3), np.float32), (2, 3), np.float32),
        (np.ones((2, 3), ">f8"), (2, 3), np.float64),
        (np.ones((2, 3), bool), (2, 3), np.float64),
        (np.arange(4), (4, 1), np.float64),
    ],
)
def test_npy(tmp_path, array, shape, dtype):
    np.save(tmp_path / "t.npy", array)
    X, columns = read(tmp_path / "t.npy")
    assert (X.shape, X.dtype, columns) == (shape, dtype, [f"x{j}" for j in range(shape[1])])
    np.testing.assert_array_equal(X, np.reshape(array, shape))
    assert X.flags.c_contiguous
    assert X.dtype.isnative
    np.testing.assert_array_equal(read(tmp_path / "t.npy", columns[-1:]).X[:, 0], X[:, -1])


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a,b\n1,2\n", ["a", "b"]),
        ("\ufeffa , b\r\n1,2\r\n", ["a", "b"]),
        ("a;b\n1;2\n", ["a", "b"]),
        ("a\tb\n1\t2\n", ["a", "b"]),
        ('\n \n"a\nz","b,c"\n1,2\n', ["a\nz", "b,c"]),
        ("1,2\n1,2\n", ["x0", "x1"]),
        ("-1.5e3,\n1,2\n", None),
    ],
)
def test_csv_header(write, text, names):
    source = open_table(write(text))
    if names is None:  # an empty field does not make the first line a header
        assert not source.named
        return
    assert source.names == names
    assert source.named == (names[0] != "x0")
    np.testing.assert_array_equal(read_table(source).X[-1], [1, 2])


def test_csv_header_can_be_forced(write):
    path = write("2023,2024\n1,2\n")
    assert len(read(path).X) == 2
    assert read(path, header=True).columns == ["2023", "2024"]
    assert read(write("a,b\n1,2\n"), header=True).columns == ["a", "b"]
    assert '"a" in data row 1' in refusal(write("a,b\n1,2\n"), header=False)


def test_compressed_csv(tmp_path):
    with gzip.open(tmp_path / "t.csv.gz", "wt") as stream:
        stream.write("a,b\n1,2\n")
    np.testing.assert_array_equal(read(tmp_path / "t.csv.gz").X, [[1, 2]])


def test_a_column_may_turn_from_whole_to_broken_numbers_late(write):
    path = write("a,b\n" + "1,2\n" * 300_000 + "1.5,2\n")
    assert read(path).X[-1, 0] == 1.5


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty."),
        ("\n\n", "is empty."),
        ("a,b\n", "has no rows."),
        ("a,b\n1,2\nx,3\n", 'column "a" ("x" in data row 2) is not numeric; choose the numeric ones with --columns b.'),
        ("a,b\n1,2\n,3\n", 'a missing value (NaN) in column "a", data row 2.'),
        ("a,b\n1,2\n1,nan\n", 'a missing value (NaN) in column "b", data row 2.'),
        ("a,b\n1,2\n1,-inf\n", 'an infinite value in column "b", data row 2.'),
        ("a,b\n1,2\n3,4,5\n", "has 3 values instead of 2 in data row 2."),
        ("a,b\n1,2\n3\n", "has 1 value instead of 2 in data row 2."),
        ("\n\na,b\n1,2\n3\n", "has 1 value instead of 2 in data row 2."),
        ("a,b,c\n1,u,2024-01-01\n", 'columns "b" ("u" in data row 1), "c" (type date32[day]) are not numeric;'),
        ("a,a\n1,2\n", 'column "a" appears more than once.'),
        (",a,b\n0,1,2\n", 'column "" that looks like a row index; choose the numeric ones with --columns a,b.'),
        ("'a b',c d\n1,x\n", "--columns ''\"'\"'a b'\"'\"''."),
    ],
)
def test_csv_refusals(write, text, sentence):
    path = write(text)
    assert refusal(path).startswith(str(path))
    assert sentence in refusal(path)


def test_text_far_down_is_found(write):
    path = write("a,b\n" + "1,2\n" * 300_000 + "oops,2\n1,2\n")
    assert '"oops" in data row 300001' in refusal(path)
    assert "1 value instead of 2 in data row 300001" in refusal(write("a,b\n" + "1,2\n" * 300_000 + "1\n"))


def test_missing_column_names_those_that_exist(write):
    text = refusal(write("a,b\n1,2\n"), ["a", "c"])
    assert text.endswith('t.csv has no column "c"; it has "a", "b".')
    assert "is empty" in refusal(write("a,b\n1,2\n"), [])


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_csv_in_another_encoding(write, encoding):
    assert refusal(write("\xe9t\xe9,b\n1,2\n", encoding=encoding)).endswith("is not text in UTF-8.")


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((2, 2, 2)), "3 dimensions"),
        (np.array(1.0), "0 dimensions"),
        (np.array([["a"]]), "not numbers"),
        (np.array([[1j]]), "not numbers"),
        (np.zeros(2, "f8,i4"), "not numbers"),
        (np.array([[None]]), "Python objects"),
        (np.zeros((0, 2)), "has no rows"),
        (np.zeros((2, 0)), "has no columns"),
        (np.array([[1, 2], [3, np.nan]]), 'a missing value (NaN) in column "x1", data row 2.'),
        (np.array([[1, 2], [np.inf, np.nan]]), 'an infinite value in column "x0", data row 2.'),
    ],
)
def test_npy_refusals(tmp_path, array, sentence):
    np.save(tmp_path / "t.npy", array, allow_pickle=True)
    assert sentence in refusal(tmp_path / "t.npy")


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".npy", ".csv.gz"])
def test_damaged_files(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    table = pa.table({"a": np.arange(5000.0), "b": np.arange(5000.0)})
    if suffix == ".parquet":
        pq.write_table(table, path)
    elif suffix == ".feather":
        write_feather(table, path)
    elif suffix == ".npy":
        np.save(path, np.zeros((5000, 2)))
    else:
        path.write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 5000))
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:7], b"junk" * 100, b"\x00" * 100):
        path.write_bytes(damaged)
        assert str(path) in refusal(path)


def test_flipped_bytes_never_crash_the_reader(tmp_path):
    rng = np.random.default_rng(0)
    table = pa.table({"a": np.arange(50.0), "s": [str(i) for i in range(50)]})
    pq.write_table(table, tmp_path / "t.parquet")
    write_feather(table, tmp_path / "t.feather")
    for path in (tmp_path / "t.parquet", tmp_path / "t.feather"):
        whole = bytearray(path.read_bytes())
        for _ in range(60):
            damaged = whole.copy()
            for at in rng.integers(len(whole), size=8):
                damaged[at] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                assert read(path).X.ndim == 2
            except TableError as error:
                assert "\n" not in str(error)  # noqa: PT017


def test_no_such_file_folder_or_suffix(tmp_path):
    assert "does not exist" in refusal(tmp_path / "none.csv")
    assert "is a folder" in refusal(tmp_path)
    (tmp_path / "t.xlsx").write_text("1")
    assert ".parquet" in refusal(tmp_path / "t.xlsx")


def test_split_names():
    assert split_names('a, b ,"c,d",') == ["a", "b", "c,d"]
    assert split_names("") == []
