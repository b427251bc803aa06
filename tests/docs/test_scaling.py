"""docs/scaling.md says what was measured: its tables are those that the saved measurements give."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import fastem
from fastem.grid import CELL
from fastem.sources import dask as dask_source
from fastem.sources import dask_tasks

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from asv_bench import scaling  # noqa: E402
from asv_bench.scaling import Costs, Layout, Seen  # noqa: E402

DOCS = ROOT / "docs"


def found():
    return json.loads((DOCS / "scaling.json").read_text())


def test_tables_of_the_page():
    page = (DOCS / "scaling.md").read_text()
    for name, table in scaling.tables(found()).items():
        assert table in page, name


def test_other_configurations_are_met_within_a_quarter():
    seen, checked = (scaling.seen_in(found(), name) for name in ("seen", "checked"))
    assert not {one.layout for one in seen} & {one.layout for one in checked}
    for model in scaling.MODELS:
        costs = scaling.costs_of(model, seen)
        for one in checked:
            assert costs.seconds(one.layout, model) == pytest.approx(one.seconds[model], rel=0.25)
            assert costs.bytes(one.layout, model, one.seconds[model]) == pytest.approx(one.bytes[model], rel=0.25)


def test_constants_are_found_again():
    costs = Costs(2e-8, 3e-3, 1e-3, 0.02, 2000.0, 300.0, 9000.0, 11000.0)
    layouts = [Layout(n, p, w, together=r) for n in (10**6, 10**7) for p in (4, 64) for w in (1, 2) for r in (1, 10**7)]
    times = [costs.seconds(one, "gmm") for one in layouts]
    seen = [
        Seen(one, {"gmm": took}, {"gmm": costs.bytes(one, "gmm", took)})
        for one, took in zip(layouts, times, strict=True)
    ]
    np.testing.assert_allclose(scaling.costs_of("gmm", seen), costs, rtol=1e-6)


@pytest.mark.parametrize(
    ("partitions", "workers", "groups", "joins"),
    [(1, 1, 1, []), (2, 2, 2, []), (40, 2, 2, []), (17, 17, 17, [2, 1]), (600, 300, 300, [19, 2, 1]), (3, 2, 2, [])],
)
def test_tasks_of_a_layout(partitions, workers, groups, joins):
    layout = Layout(10**6, partitions, workers)
    assert layout.groups == groups
    assert layout.joins("kmeans") == joins
    assert layout.tasks("kmeans") == groups + sum(joins)


def test_records_that_are_many_are_joined_by_a_task():
    """Of partitions that are dealt out in turn no two neighbours are joined where they lie."""
    layout = Layout(20_000_000, 64, 2)
    assert layout.groups == 2
    assert layout.nodes > 64
    assert layout.joins("kmeans") == [1] == layout.joins("gmm")
    assert Layout(20_000_000, 4, 2).joins("kmeans") == []
    assert Layout(20_000_000, 4, 2).joins("gmm") == [1]
    families = (fastem.KMeans(scaling.K), "kmeans"), (fastem.GaussianMixture(scaling.K), "gmm")
    assert [size_of_record(model) for model, _ in families] == [scaling.RECORDS[name] // 8 for _, name in families]


def size_of_record(model):
    """The numbers of a record in a fit to rows of Dask."""
    da, sizes = pytest.importorskip("dask.array"), []
    X = np.random.default_rng(0).normal(size=(2 * CELL, scaling.D))

    def summed(home, tasks, size, summed=dask_source.Blocks.summed):
        sizes.append(size)
        return summed(home, tasks, size)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(dask_source.Blocks, "summed", summed)
        model.set_params(max_iter=1, random_state=0).fit(da.from_array(X, chunks=(CELL, scaling.D)))
    return sizes[-1]


def test_the_rows_of_a_task_are_bounded():
    assert scaling.TOGETHER * 4 * scaling.D == dask_source.TOGETHER
    assert (scaling.JOINED, scaling.HERE) == (dask_source.JOINED, dask_source.HERE)
    assert Layout(4 * scaling.TOGETHER, 40, 2).groups == 4
    assert Layout(40 * scaling.TOGETHER, 10, 2).groups == 10  # larger than that by themselves


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("partitions", "workers"), [(1, 1), (4, 2), (17, 2), (17, 17), (40, 20)])
def test_an_iteration_has_so_many_tasks(partitions, workers, monkeypatch):
    dask, da = pytest.importorskip("dask"), pytest.importorskip("dask.array")
    counted, at = [], []

    def counting(*given, tasks_of=dask_tasks.tasks_of):
        tasks = tasks_of(*given)
        counted.append(len(tasks))
        return tasks

    monkeypatch.setattr(dask_tasks, "tasks_of", counting)
    monkeypatch.setattr(dask_tasks, "holders", lambda tasks: [(f"{i % workers}",) for i in range(len(tasks))])
    X = np.random.default_rng(0).normal(size=(partitions * 2 * CELL, scaling.D))
    rows = da.from_array(X, chunks=(2 * CELL, scaling.D))
    watched = {"max_iter": 4, "tol": 0, "random_state": 0, "callback": lambda info: at.append(sum(counted))}
    fits = [
        fastem.GaussianMixture(scaling.K, means_init=X[:8], init_params="random_from_data", **watched) for _ in range(2)
    ]
    fits[1].fit(X)
    at.clear()
    with dask.config.set(scheduler="sync"):
        fits[0].fit(rows)
    assert set(np.diff(at)) == {Layout(len(X), partitions, workers).tasks("gmm")}
    assert Layout(len(X), partitions, workers).joins("gmm") == {(1, 1): [], (4, 2): [], (17, 2): [1]}.get(
        (partitions, workers), [2, 1]
    )
    np.testing.assert_array_equal(fits[0].covariances_, fits[1].covariances_)  # workers hold every so many blocks
