"""A family of the user's own: the page that explains it runs, and gets all that a family of the package gets."""

import ast
import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastem
from fastem import BernoulliMixture, Mixture
from fastem.families.discrete.bernoulli import BernoulliFamily, BernoulliParams
from fastem.sources.memory import MemorySource

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "own_family.md"
EXAMPLE = ROOT / "examples" / "zero_inflated_poisson.py"

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@parametrize_with_checks([Mixture(), Mixture(family="poisson")])
def test_scikit_learns_estimator_checks(estimator, check):
    check(estimator)


def load(path, name, **names):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    vars(module).update(names)
    sys.modules[name] = module  # so that Numba's cache finds the NamedTuples
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def example():
    return load(EXAMPLE, "example_zero_inflated_poisson")


@pytest.fixture(scope="module")
def customers(example):
    return example.simulate(6000)


def code_of_page():
    return "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))


def definitions(code):
    """Classes, functions and assignments of a module as comparable text, without docstrings."""
    found = {}
    for node in ast.parse(code).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            node.body = [part for part in node.body if not isinstance(part, ast.Expr)]
            found[node.name] = ast.dump(node)
    return found


def test_the_page_runs_as_it_stands(customers, tmp_path):
    assert len(PAGE.read_text().splitlines()) <= 80
    path = tmp_path / "page.py"
    path.write_text(code_of_page())
    module = load(path, "page_of_own_family", X=customers[0])
    assert type(module.model.params_) is module.Params
    assert len(module.model.restarts_) == 10
    page, example = definitions(code_of_page()), definitions(EXAMPLE.read_text())
    assert page == {name: example[name] for name in page}


@pytest.mark.parametrize("name", ["ZeroInflatedPoisson", "Compiled"])
def test_it_gets_restarts_monitor_history_and_estimator(example, customers, name):
    X, group, truth = customers
    seen = []
    model = Mixture(
        2,
        family=getattr(example, name),
        n_init=3,
        random_state=0,
        certify=True,
        keep_history=True,
        callback=lambda info: seen.append(info.objective),
    ).fit(X)
    assert len(model.restarts_) == 3
    assert len(seen) == sum(map(len, model.histories_))
    assert len(model.history_) == model.n_iter_ + 1
    assert np.diff(model.lower_bounds_).min() > -1e-12
    assert model.converged_
    order = np.argsort(-model.weights_)
    for got, want in zip(model.params_, truth, strict=True):
        np.testing.assert_allclose(got[order], want, atol=0.03 * max(1, want.max()))
    assert np.mean(np.argsort(order)[model.predict(X)] == group) > 0.97
    assert model.score(X) == pytest.approx(model.lower_bound_, abs=1e-5)
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1)
    with pytest.raises(ValueError, match="is expecting 4 features"):
        model.predict(X[:, :2])
    with pytest.raises(NotImplementedError, match="cannot draw samples"):
        model.sample(3)
    with pytest.raises(NotImplementedError, match="does not count its parameters"):
        model.bic(X)


def test_known_labels_and_weights_work_in_both(example, customers):
    X, group, _ = customers
    w = np.random.default_rng(0).integers(0, 3, len(X))
    labels = np.where(np.arange(len(X)) % 3 == 0, group, -1)
    slow, fast, repeated = (
        Mixture(2, family=family, random_state=0, tol=1e-9)
        for family in (example.ZeroInflatedPoisson, example.Compiled, example.Compiled())
    )
    slow.fit(X, sample_weight=w, labels=labels)
    fast.fit(X, sample_weight=w, labels=labels)
    repeated.fit(np.repeat(X, w, axis=0), labels=np.repeat(labels, w))
    for field in range(3):
        np.testing.assert_allclose(fast.params_[field], slow.params_[field], rtol=1e-9)
        np.testing.assert_allclose(fast.params_[field], repeated.params_[field], rtol=1e-9)
    assert np.mean(fast.predict(X) == group) > 0.97


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_its_kernel_equals_its_numpy_and_has_the_same_bits_for_any_threads(example, customers, dtype):
    X, _, truth = customers
    X = X.astype(dtype)
    slow, fast = example.ZeroInflatedPoisson(2), example.Compiled(2)
    prepared = slow.prepare(truth, X.dtype)
    records = [MemorySource(X, n_threads=threads).accumulate(fast, prepared) for threads in (1, 2)]
    for one, two, numpy in zip(*records, MemorySource(X).accumulate(slow, prepared), strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_allclose(one, numpy, rtol=1e-10 if dtype == np.float64 else 1e-6)


def test_a_family_goes_in_by_name_class_or_object():
    X = (np.random.default_rng(0).random((300, 5)) < 0.3).astype(float)
    X[:100] = 1 - X[:100]
    want = BernoulliMixture(2, min_prob=0.0, random_state=0).fit(X)
    pattern = BernoulliFamily(7)
    for family in ("bernoulli", BernoulliFamily, pattern):
        model = clone(Mixture(2, family=family, random_state=0)).fit(X)
        np.testing.assert_array_equal(model.means_, want.means_)
        assert type(model.params_) is BernoulliParams
        assert model.bic(X) == want.bic(X)
        assert model.sample(5)[0].shape == (5, 5)
    assert pattern.n_components == 7
    floored = Mixture(2, family=BernoulliFamily(2, floor=0.2), random_state=0).fit(X)
    assert floored.means_.min() >= 0.2
    start = Mixture(2, family="bernoulli", params_init=want._fitted_params(pattern), max_iter=1).fit(X)
    assert start.lower_bound_ == pytest.approx(want.lower_bound_, abs=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "complaint"),
    [
        ({"family": "binomial"}, ValueError, "family must be one of kmeans, gaussian-full"),
        ({"family": 3}, TypeError, "family must be the name of a registered family"),
        ({"family": dict}, TypeError, "family must be the name of a registered family"),
        ({"family": "bernoulli"}, ValueError, "takes zeros and ones: 2.0 at row 2, column 0"),
        ({"family": "poisson", "params_init": (1, 2)}, TypeError, "params_init must be of PoissonParams, got tuple"),
    ],
)
def test_refusals(options, error, complaint):
    with pytest.raises(error, match=complaint):
        Mixture(1, **options).fit([[0.0], [1.0], [2.0]])


def test_registered_families_can_be_saved(tmp_path, example, customers):
    X = customers[0][:500]
    for name in ("gaussian-diag", "bernoulli", "poisson", "categorical"):
        rows = np.minimum(X, 1) if name in ("bernoulli", "categorical") else X
        model = Mixture(2, family=name, random_state=0, max_iter=5).fit(rows)
        fastem.save(model, tmp_path / "model.npz")
        loaded = fastem.load(tmp_path / "model.npz")
        np.testing.assert_array_equal(loaded.predict(rows), model.predict(rows))
    model = Mixture(2, family=example.ZeroInflatedPoisson, max_iter=2).fit(X)
    with pytest.raises(TypeError, match="of one's own family"):
        fastem.save(model, tmp_path / "own.npz")
    broken = Mixture(2, family="poisson", max_iter=2).fit(X)
    broken.rates_ = broken.rates_[:, :2]
    with pytest.raises(ValueError, match=r"Cannot save this Mixture.* rates_ has shape \(2, 2\)"):
        fastem.save(broken, tmp_path / "broken.npz")
    broken._check_to_save = lambda: None  # a file that somebody edited
    fastem.save(broken, tmp_path / "broken.npz")
    with pytest.raises(ValueError, match=r"rates_.* should have the shape of \(2, 4\)"):
        fastem.load(tmp_path / "broken.npz")


def test_the_example_tells_both_apart(example, capsys):
    models = example.main()
    assert "customers in their own group" in capsys.readouterr().out
    assert models["Compiled"].lower_bound_ == pytest.approx(models["ZeroInflatedPoisson"].lower_bound_, rel=1e-10)
    assert models["Compiled"].lower_bound_ > models["poisson"].lower_bound_ + 0.5
