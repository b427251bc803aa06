"""docs/scaling.md says what was measured: its tables are those that the saved measurements give."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import fastem
from fastem.grid import CELL
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
            assert costs.seconds(one.layout) == pytest.approx(one.seconds[model], rel=0.25)
            assert costs.bytes(one.layout, one.seconds[model]) == pytest.approx(one.bytes[model], rel=0.25)


def test_constants_are_found_again():
    costs = Costs(2e-8, 3e-3, 0.02, 2000.0, 9000.0, 11000.0)
    layouts = [Layout(n, p, w) for n in (10**6, 10**7) for p in (4, 64) for w in (1, 2)]
    seen = [Seen(one, {"gmm": costs.seconds(one)}, {"gmm": costs.bytes(one, costs.seconds(one))}) for one in layouts]
    np.testing.assert_allclose(scaling.costs_of("gmm", seen), costs, rtol=1e-6)


@pytest.mark.parametrize(("partitions", "joins"), [(1, []), (2, [1]), (16, [1]), (17, [2, 1]), (300, [19, 2, 1])])
def test_tasks_of_a_layout(partitions, joins):
    layout = Layout(10**6, partitions, 1)
    assert layout.joins == joins
    assert layout.tasks == 1 + partitions + sum(joins)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("partitions", [1, 4, 16, 17, 40])
def test_an_iteration_has_so_many_tasks(partitions, monkeypatch):
    dask, da = pytest.importorskip("dask"), pytest.importorskip("dask.array")
    counted, at = [], []

    def counting(*given, tasks_of=dask_tasks.tasks_of):
        tasks = tasks_of(*given)
        counted.append(len(tasks))
        return tasks

    monkeypatch.setattr(dask_tasks, "tasks_of", counting)
    X = np.random.default_rng(0).normal(size=(partitions * 2 * CELL, 2))
    rows = da.from_array(X, chunks=(2 * CELL, 2))
    watched = {"max_iter": 4, "tol": 0, "callback": lambda info: at.append(sum(counted))}
    with dask.config.set(scheduler="sync"):
        fastem.GaussianMixture(2, means_init=X[:2], init_params="random_from_data", **watched).fit(rows)
    assert set(np.diff(at)) == {Layout(len(X), partitions, 1).tasks}
