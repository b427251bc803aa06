"""Output files appear whole or not at all."""

import os
import stat

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from fastem.cli.outputs import WRITABLE, check_output
from fastem.cli.tables import TableError, open_table, read_table
from fastem.files import FileError, replacing
from fastem.sources.writing import write_blocks

COLUMNS = {"label": np.array([2, 0, 1], np.int32), "probability": np.array([0.5, 1.0, 0.1 + 0.2])}


@pytest.mark.parametrize("suffix", [s for s in WRITABLE if s != ".npy"])
def test_round_trip(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    write_blocks(path, [COLUMNS])
    X, names = read_table(open_table(path))
    assert names == list(COLUMNS)
    np.testing.assert_array_equal(X, np.column_stack(list(COLUMNS.values())))
    assert os.listdir(tmp_path) == [path.name]


def test_npy_is_plain_for_one_column_and_structured_for_several(tmp_path):
    write_blocks(tmp_path / "one.npy", [{"label": COLUMNS["label"]}])
    np.testing.assert_array_equal(np.load(tmp_path / "one.npy"), COLUMNS["label"])
    write_blocks(tmp_path / "two.npy", [COLUMNS])
    np.testing.assert_array_equal(np.load(tmp_path / "two.npy")["probability"], COLUMNS["probability"])


def _fail_halfway(path, error):
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == path.suffix
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("no")])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "out.csv"
    path.write_text("old")
    with pytest.raises((FileError, KeyboardInterrupt, RuntimeError)):
        _fail_halfway(path, error)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.csv"]


@pytest.mark.parametrize("suffix", WRITABLE)
def test_no_room_is_one_sentence_and_leaves_nothing(tmp_path, suffix):
    resource = pytest.importorskip("resource")
    path = tmp_path / f"out{suffix}"
    noise = {"value": np.random.default_rng(0).random(10_000)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # stands for a full disk
    try:
        with pytest.raises(FileError, match=r"^[^\n]*cannot be written: [^\n]*\.$"):
            write_blocks(path, [noise])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_permissions_and_links(tmp_path):
    path = tmp_path / "out.csv"
    before = os.umask(0o027)
    try:
        write_blocks(path, [COLUMNS])
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    (tmp_path / "link.csv").symlink_to(path)
    write_blocks(tmp_path / "link.csv", [{"label": COLUMNS["label"]}])
    assert (tmp_path / "link.csv").is_symlink()
    assert path.read_text().startswith('"label"\n2\n')
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_refused_before_the_work_starts(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    for path, sentence in (
        (tmp_path / "out.xlsx", "unknown suffix; choose one of .csv, .parquet"),
        (tmp_path / "out", "unknown suffix"),
        (tmp_path / "none" / "out.csv", "there is no folder"),
        (tmp_path / "folder.csv", "is not a file"),
    ):
        with pytest.raises(TableError) as caught:
            check_output(path)
        assert sentence in str(caught.value)
    assert check_output(tmp_path / "out.CSV") == tmp_path / "out.CSV"
    assert os.listdir(tmp_path) == ["folder.csv"]


def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("permissions do not bind this user")
        with pytest.raises(FileError, match="cannot be written: Permission denied"):
            check_output(tmp_path / "out.csv")
    finally:
        tmp_path.chmod(0o700)
