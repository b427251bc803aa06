"""Fits on real clusters: workers with nannies, over TCP, that come and go, and what travels between them."""

import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

import fastem
from fastem.grid import CELL
from fastem.sources import dask_tasks
from fastem.sources.dask import Blocks

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")

N, D = 40 * CELL + 77, 4
LENGTHS = (30_000, 0, 700, 20_000, 4 * CELL, N - 50_700 - 4 * CELL)

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.xdist_group("cluster"),
]


def made(block_info=None):
    """The rows of a partition, made where they are: what is lost can be made again."""
    start, stop = block_info[None]["array-location"][0]
    return table()[start:stop]


def table():
    rng = np.random.default_rng(0)
    return rng.normal(size=(N, D)) + 1.5 * rng.integers(0, 3, (N, 1))


def collection():
    return da.map_blocks(made, chunks=(LENGTHS, (D,)), dtype=np.float64, meta=np.empty((0, 0)))


def model(**params):
    return fastem.GaussianMixture(3, random_state=0, tol=0, **{"max_iter": 4, **params})


def assert_same(found, want):
    for name in ("weights_", "means_", "covariances_", "lower_bounds_"):
        np.testing.assert_array_equal(getattr(found, name), getattr(want, name))


@pytest.fixture(scope="module", autouse=True)
def environment():
    """A nanny sets OMP_NUM_THREADS=1 in this process, too: tests that follow must not be left with it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def X():
    return table()


@pytest.fixture(scope="module")
def cluster():
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        yield cluster


def test_two_processes_with_nannies(cluster, X):
    rows = collection()
    want, found = model().fit(X), model().fit(rows)
    assert_same(found, want)
    labels = found.predict(rows)
    assert isinstance(labels, da.Array)
    np.testing.assert_array_equal(labels.compute(), want.predict(X))
    clusters = fastem.KMeans(5, random_state=0).fit(rows)
    np.testing.assert_array_equal(clusters.cluster_centers_, fastem.KMeans(5, random_state=0).fit(X).cluster_centers_)


@pytest.mark.parametrize("kind", ["array", "columns apart", "frame", "delayed", "delayed of an array"])
def test_what_is_persisted_already(cluster, X, kind):
    """Dask leaves the futures of a persisted array out of the graph of its delayed parts."""
    rows = collection()
    if kind == "columns apart":
        rows = rows.rechunk({1: 2}).persist()
    elif kind == "frame":
        rows = pytest.importorskip("dask.dataframe").from_dask_array(rows).persist()
    elif kind == "delayed":
        rows = list(dask.persist(*rows.to_delayed().ravel()))
    else:
        kept = rows.persist()  # its delayed parts do not hold the futures
        rows = list(kept.to_delayed().ravel()) if kind == "delayed of an array" else kept
    found = model().fit(rows, sample_weight=da.ones(N, chunks=777).persist())
    want = model().fit(X, sample_weight=np.ones(N))
    assert_same(found, want)
    labels = found.predict(rows)
    labels = np.concatenate(dask.compute(*labels)) if isinstance(labels, list) else np.asarray(labels.compute())
    np.testing.assert_array_equal(labels, want.predict(X))


def test_a_worker_is_killed_one_is_added_and_one_removed(cluster, X):
    """In the middle of a fit, seen from its iterations."""
    client = distributed.get_client()
    done = []

    def disturb(info):
        if info.iteration == 2:
            os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
        if info.iteration == 3:
            cluster.scale(3)
            client.wait_for_workers(3)
        if info.iteration == 4:
            client.retire_workers(list(client.nthreads())[:1])
        done.append(info.iteration)

    found = model(max_iter=6, callback=disturb).fit(collection())
    assert done == [1, 2, 3, 4, 5, 6]
    assert_same(found, model(max_iter=6, callback=lambda info: None).fit(X))
    cluster.scale(2)


def test_a_worker_that_keeps_failing_is_one_sentence(cluster):
    def fatal(block, block_info=None):
        if block_info[0]["chunk-location"][0] == 3:
            os._exit(1)
        return block

    rows = collection().map_blocks(fatal, dtype=np.float64, meta=np.empty((0, 0)))
    with pytest.raises(ValueError, match=r"artition .*3.* ended every worker that was given it, 4 in all") as raised:
        model().fit(rows)
    assert "\n" not in str(raised.value)


@pytest.mark.deep
def test_a_pass_that_keeps_failing_names_the_partitions_that_it_is_of(cluster):
    """What one task takes of the rows that a worker holds cannot be told apart."""
    source = fastem.rows(collection().persist()).source()

    def fatal(part, rows):
        if rows.start == 3 * CELL:
            os._exit(1)
        return np.zeros(1)

    def count():
        return source.fold(lambda part, rows: np.ones(1), 1)

    for _ in range(2):  # after the first it is known who holds the rows
        assert count() == -(-N // CELL)
    with pytest.raises(ValueError, match=r"^One of the partitions \d to \d ended every worker .* 4 in all") as raised:
        source.fold(fatal, 1)
    assert "\n" not in str(raised.value)
    assert count() == -(-N // CELL)  # what the workers held is made again


def test_only_parameters_and_records_travel(cluster, X):
    """What comes to the client in an iteration is a record; what the workers hold stays where it is."""
    rows, sizes = collection(), []
    model().fit(rows)

    compute = dask_tasks.computed

    def watched(*tasks_and_client):
        found = compute(*tasks_and_client)
        sizes.append(sum(len(distributed.protocol.pickle.dumps(one)) for one in found))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dask_tasks, "computed", watched)
        model(means_init=X[:3], init_params="random_from_data").fit(rows)
    record = 8 * 3 * (1 + D + D * D)
    assert max(sizes) < 40 * record + 8000 < X.nbytes / 50


def test_unlike_instruction_sets_are_said(cluster):
    client = distributed.get_client()

    def other(dask_worker):
        from fastem.sources import dask_tasks as module

        module.instructions = lambda: "something else"

    def back(dask_worker):
        import importlib

        from fastem.sources import dask_tasks as module

        importlib.reload(module)

    first, second = list(client.nthreads())[:2]
    parts = collection().to_delayed().ravel()
    rows = [*client.persist(list(parts[:3]), workers=[first]), *client.persist(list(parts[3:]), workers=[second])]
    distributed.wait(rows)
    client.run(other, workers=[first])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fastem.KMeans(3, random_state=0, max_iter=3).fit(rows)
    client.run(back, workers=[first])
    said = [str(one.message) for one in caught if "unlike instruction sets" in str(one.message)]
    assert len(said) == 1
    assert "something else" in said[0]


def begun_after(since, dask_scheduler):
    """The keys of the last tasks that a scheduler gave to a worker after this time."""
    return [entry[0] for entry in dask_scheduler.transition_log if entry[2] == "processing" and entry[-1] > since]


def test_a_client_that_is_not_the_current_one(cluster, X):
    """`fastem.rows(..., client=)` computes there, and nowhere else."""
    home, weights = distributed.get_client(), np.random.default_rng(1).uniform(0.5, 2, N)
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as other,
        distributed.Client(other, set_as_default=False) as client,
    ):
        since = time.time()
        w = da.from_array(weights, chunks=777)
        rows = fastem.rows(collection(), client=client)
        found = model().fit(rows, sample_weight=w)
        few = fastem.rows(collection()[:1000], client=client)
        clusters = fastem.KMeans(3, random_state=0).fit(few, sample_weight=w[:1000])
        assert client.run_on_scheduler(begun_after, since)
        assert not home.run_on_scheduler(begun_after, since)  # what is let go of earlier fits may be heard of there
    assert_same(found, model().fit(X, sample_weight=weights))
    want = fastem.KMeans(3, random_state=0).fit(X[:1000], sample_weight=weights[:1000])
    np.testing.assert_array_equal(clusters.cluster_centers_, want.cluster_centers_)


def forget_peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return memory("VmRSS")


def memory(name):
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(name))


@pytest.mark.deep
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks of memory are read from /proc")
@pytest.mark.parametrize("kept", [True, False])
def test_partitions_are_not_concatenated(kept):
    """Beside the rows that it keeps, a worker needs its largest partition, if it is made for a pass, and a block."""
    lengths = (1_000_000, 300_000, 1_000_100, 900_000, 777, 800_000)
    largest = 8 * 4 * max(lengths)

    def rows_of(block_info=None):
        return np.random.default_rng(0).random(block_info[None]["chunk-shape"], np.float32)

    def rows():
        return da.map_blocks(rows_of, chunks=(lengths, (8,)), dtype=np.float32, meta=np.empty((0, 0), np.float32))

    models = fastem.KMeans(4, init="random", max_iter=3, tol=0, random_state=0), model(init_params="random_from_data")
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        for one in models:
            one.fit(rows()[:10_000])  # kernels are loaded
        X = rows().persist() if kept else rows()
        distributed.wait(X)
        (before,) = client.run(forget_peak).values()
        for one in models:
            one.fit(X)
        (peak,) = client.run(memory, "VmHWM").values()
    kept_by_the_fit = 0 if kept else 8 * 4 * sum(lengths)
    assert peak - before < kept_by_the_fit + largest + 2**24 < kept_by_the_fit + 8 * 4 * sum(lengths) / 2


def threads_of(n_tasks):
    return dask_tasks.threads_of_task(n_tasks, None)


def test_threads_of_tasks_are_the_slots_of_the_worker(cluster):
    """A nanny sets OMP_NUM_THREADS=1: a worker of one slot takes one thread, whatever the processors."""
    client = distributed.get_client()
    assert client.submit(threads_of, 1, pure=False).result() == 1


@pytest.mark.deep
def test_one_process_of_two_slots_neither_idles_nor_takes_too_many(X):
    for processes in (True, False):
        with (
            distributed.LocalCluster(
                n_workers=1, threads_per_worker=2, processes=processes, dashboard_address=None
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            assert client.submit(threads_of, 1, pure=False).result() == 2
            assert client.submit(threads_of, 2, pure=False).result() == 1
            assert_same(model().fit(collection()), model().fit(X))
            whole = da.map_blocks(made, chunks=((N,), (D,)), dtype=np.float64, meta=np.empty((0, 0)))
            assert_same(model().fit(whole), model().fit(X))


def test_threads_of_the_local_schedulers():
    available = fastem.threads.resolve(None)
    assert dask_tasks.threads_of_task(1, None) == available
    assert dask_tasks.threads_of_task(4 * available, None) == 1
    home = Blocks([dask.delayed(np.ones((CELL, 1)))] * 3, [CELL] * 3, 8, keep=False)
    for scheduler, at_once in (("sync", 1), ("threads", 3)):
        with dask.config.set(scheduler=scheduler):
            assert home.crew(None) == (at_once, None)


@pytest.mark.deep
def test_over_tcp_with_processes_of_their_own(X, tmp_path):
    """`dask scheduler` and `dask worker` as anybody starts them, on the loopback."""
    file = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "dask"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    started = [
        subprocess.Popen(
            [*command, "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", file, "--no-dashboard"],
            env=env,
        )
    ]
    try:
        while not file.exists():
            time.sleep(0.1)
        for _ in range(2):
            worker = ["worker", "--scheduler-file", file, "--nthreads", "1", "--no-dashboard"]
            started.append(subprocess.Popen([*command, *worker], env=env, cwd=tmp_path))
        with distributed.Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(2, timeout=60)
            assert client.scheduler.address.startswith("tcp://127.0.0.1")
            assert_same(model().fit(X), model().fit(da.from_array(X, chunks=(LENGTHS, (D,)))))
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(20)
