"""Acceleration of every family that can be: coordinates there and back, boundaries, no fall, fewer passes."""

import numpy as np
import pytest

import fastem
from fastem import families
from fastem.draws import Draws
from fastem.engine import em
from fastem.engine.monitor import Settings
from fastem.engine.problem import Problem
from fastem.sources.memory import MemorySource

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
NAMES = sorted(set(families.FAMILIES) - {"kmeans"})
DISCRETE = ("bernoulli", "poisson", "categorical")
D = 6
# How far apart the components are, as a share of those of `example_params`: EM is slow where they overlap.
OVERLAP = {"bernoulli": 0.4, "poisson": 0.3, "categorical": 0.5}
by_name = pytest.mark.parametrize("name", NAMES)


def make(name, k=3):
    family = families.make(name, k if families.mixes(name) else 1, **({"n_factors": 2} if "factor" in name else {}))
    for floor, value in (("reg_covar", 0.0), ("floor", 1e-10)):
        if hasattr(family, floor):
            setattr(family, floor, value)
    return family


def centers(params):
    """The parameters with an axis of components and one of features."""
    return next(name for name, field in params._asdict().items() if field.ndim == 2)


def slow(name, missing=False, seed=0):
    """Rows of components that overlap, a family, and a start a little off."""
    family, draws = make(name), Draws(seed)
    params = family.example_params(D, draws)
    field = centers(params)
    middle = getattr(params, field).mean(axis=0)
    near = middle + OVERLAP.get(name, 0.25) * (getattr(params, field) - middle)
    X = family.sample(params._replace(**{field: near}), 1500, draws)[0]
    X = np.ascontiguousarray(X[np.argsort(draws.uniform(len(X)))])
    off = 0.1 * np.abs(near).mean() * draws.normal(near.size).reshape(near.shape)
    start = family.blank_params(near + off, X.var(axis=0))
    if missing:
        X, family = np.where(draws.uniform(X.size).reshape(X.shape) < 0.2, np.nan, X), family.for_missing()
    return family, X, start


def fit(family, X, start, method, tol=1e-8, n_threads=1, max_iter=5000):
    """Return the run, and the number of E-steps."""
    passes, prepare = [0], family.prepare

    def count(*args):
        passes[0] += 1
        return prepare(*args)

    family.prepare = count
    source = MemorySource(X, n_threads=n_threads)
    settings = Settings(max_iter=max_iter, tol=tol, certify=True, accelerate=method)
    run = em.run_once(Problem(source, family), start, settings)
    family.prepare = prepare
    return run, passes[0]


def what_rows_can_tell(params):
    """The parameters; of loadings, which are known up to rotations, what they add to the covariances."""
    fields = params._asdict()
    if "loadings" in fields:
        slopes = fields.pop("loadings")
        fields["common"] = slopes @ np.swapaxes(slopes, 1, 2)
    return fields


@by_name
def test_coordinates_there_and_back(name):
    family = make(name)
    here, like = (family.example_params(D, Draws(seed)) for seed in (0, 1))
    np.testing.assert_allclose(family.pack(like, like), 0, atol=1e-10)
    back = what_rows_can_tell(family.unpack(family.pack(here, like), like))
    for field, want in what_rows_can_tell(here).items():
        np.testing.assert_allclose(back[field], want, rtol=1e-9, atol=1e-12, err_msg=field)


@by_name
def test_half_of_a_step_of_em_raises_the_objective_too(name):
    family, X, start = slow(name)
    source = MemorySource(X)
    constants, start = family.constants(source), fit(family, X, start, None, max_iter=3)[0].params

    def objective(params):
        return family.objective(source.accumulate(family, family.prepare(params, X.dtype)), constants, params)

    prepared = family.prepare(start, X.dtype)
    new = family.m_step(source.accumulate(family, prepared), constants, prepared, start).params
    half = family.unpack(0.5 * family.pack(new, start), start)
    assert objective(start) < objective(half) < objective(new)


# Complete rows of one number type and incomplete ones of the other, in turns; the deep checks have all.
@pytest.mark.parametrize(
    ("name", "missing", "dtype"),
    [
        pytest.param(name, missing, dtype, marks=() if (number + missing + at) % 2 else pytest.mark.deep)
        for number, name in enumerate(NAMES)
        for missing in (False, True)
        for at, dtype in enumerate((np.float64, np.float32))
    ],
)
def test_it_never_falls_and_ends_as_high_in_fewer_passes(name, missing, dtype):
    family, X, start = slow(name, missing)
    X, tol = X.astype(dtype), 1e-8 if dtype == np.float64 else 1e-6
    plain, needed = fit(family, X, start, None, tol)
    fast, fewer = fit(family, X, start, "squarem", tol)
    slack = 64 * np.finfo(dtype).eps * (1 + np.abs(fast.objectives[1:]))
    assert np.all(np.diff(fast.objectives) >= -slack)
    assert fast.converged
    assert fast.objective >= plain.objective - (1e-6 if dtype == np.float64 else 1e-4)
    assert fewer < (0.7 if dtype == np.float64 else 0.9) * needed


@by_name
def test_the_same_bits_for_any_number_of_threads(name):
    family, X, start = slow(name)
    X = np.tile(X, (4, 1))
    one, two = (fit(family, X, start, "squarem", n_threads=n, max_iter=12)[0] for n in (1, 2))
    np.testing.assert_array_equal(one.objectives, two.objectives)
    assert all(np.array_equal(a, b) for a, b in zip(one.params, two.params, strict=True))


@pytest.mark.parametrize("name", [name for name in NAMES if families.mixes(name)])
def test_a_component_without_weight_stays_where_it_is(name):
    family = make(name, 4)
    here, like = (family.example_params(D, Draws(seed)) for seed in (0, 1))
    weights = np.array([0.5, 0.5, 0.0, 0.0])
    died = family.pack(like._replace(weights=np.array([1.0, 0, 0, 0])), like._replace(weights=weights))
    assert family.unpack(died, like._replace(weights=weights)) is None
    here, like = here._replace(weights=weights), like._replace(weights=weights)
    back = family.unpack(1.5 * family.pack(here, like), like)
    assert back.weights.sum() == pytest.approx(1)
    np.testing.assert_array_equal(back.weights[2:], 0)
    assert all(np.all(np.isfinite(field)) for field in back)


@pytest.mark.parametrize("name", ["factor", "factor-mixture"])
def test_turned_factors_have_the_same_coordinates(name):
    family = make(name)
    here, like = (family.example_params(D, Draws(seed)) for seed in (0, 1))
    turn = np.linalg.qr(Draws(2).normal(4).reshape(2, 2))[0]
    turned = here._replace(loadings=here.loadings @ turn)
    np.testing.assert_allclose(family.pack(turned, like), family.pack(here, like), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", DISCRETE)
def test_what_is_impossible_stays_impossible(name):
    family = make(name)
    family.floor = 0.0
    here, like = (family.example_params(D, Draws(seed)) for seed in (0, 1))
    field = centers(like)
    never = np.zeros_like(getattr(like, field), bool)
    never[0, :3] = True
    like, here = (p._replace(**{field: np.where(never, 0.0, getattr(p, field))}) for p in (like, here))
    back = family.unpack(1.7 * family.pack(here, like), like)
    np.testing.assert_array_equal(getattr(back, field)[never], 0.0)
    assert np.all(getattr(back, field)[~never] > 0)
    possible = here._replace(**{field: np.where(never, 0.5, getattr(here, field))})
    assert np.all(np.isfinite(family.pack(like, possible)))


@by_name
def test_floors_hold_after_an_extrapolation(name):
    family, X, start = slow(name)
    floor = next((option for option in ("floor", "min_noise") if hasattr(family, option)), None)
    if floor is None:
        pytest.skip("a family without floors on its parameters")
    X[:, 0] = X[0, 0]  # a feature of one value: its probability, rate or variance would go to the boundary
    setattr(family, floor, 0.02)
    source = MemorySource(X)
    constants = family.constants(source)
    like = fit(family, X, start, None, max_iter=5)[0].params
    field = "noise_variances" if floor == "min_noise" else centers(like)
    low = like._replace(**{field: 0.5 * getattr(like, field)})
    leap = family.admissible(family.unpack(8.0 * family.pack(low, like), like), constants)
    least = family.floors(constants.variances) if floor == "min_noise" else 0.02
    assert np.all(getattr(leap, field) >= 0.999 * least)
    run = fit(family, X, start, "squarem", max_iter=300)[0]  # certified
    assert np.all(getattr(run.params, field) >= 0.999 * least)


@pytest.mark.parametrize("name", DISCRETE)
def test_length_of_a_short_step_is_the_kullback_leibler_divergence(name):
    family = make(name, 1)
    like = family.example_params(D, Draws(0))
    step = 1e-4 * Draws(1).normal(len(family.pack(like, like)))
    step[0] = 0  # the only weight is 1
    if name == "categorical":  # probabilities add up to 1: no step across
        roots = np.sqrt(like.probabilities).reshape(D, -1)
        across = step[1:].reshape(D, -1)
        step[1:] = (across - np.sum(across * roots, axis=1, keepdims=True) * roots).ravel()
    near, old = (getattr(params, centers(like)) for params in (family.unpack(step, like), like))
    divergence = np.sum(near * np.log(near / old) - near + old)  # the last two cancel where they add up to 1
    if name == "bernoulli":
        divergence += np.sum((1 - near) * np.log((1 - near) / (1 - old)) - old + near)
    assert divergence == pytest.approx(0.5 * step @ step, rel=1e-3)


def test_fixed_degrees_of_freedom_stay_to_the_bit():
    family, X, start = slow("student-full")
    family.dof = 4.0
    start = start._replace(dofs=np.full(3, 4.0))
    plain, needed = fit(family, X, start, None)
    fast, fewer = fit(family, X, start, "squarem")
    np.testing.assert_array_equal(fast.params.dofs, 4.0)
    assert fewer < needed
    assert fast.objective >= plain.objective - 1e-6


def test_k_means_has_no_coordinates():
    family = families.make("kmeans", 2)
    start = family.blank_params(np.array([[0.0], [1.0]]), np.ones(1))
    with pytest.raises(NotImplementedError, match="KMeansFamily has no coordinates, so that it cannot be accelerated"):
        family.pack(start, start)


ESTIMATORS = {
    "bernoulli": lambda **options: fastem.BernoulliMixture(3, **options),
    "poisson": lambda **options: fastem.PoissonMixture(3, **options),
    "categorical": lambda **options: fastem.CategoricalMixture(3, **options),
    "student-full": lambda **options: fastem.StudentTMixture(3, **options),
    "factor-mixture": lambda **options: fastem.FactorAnalyserMixture(3, n_factors=2, **options),
    "factor": lambda **options: fastem.FactorAnalysis(2, **options),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_estimators_take_the_keyword(name):
    X = slow(name)[1]
    options = {"tol": 1e-7 if name != "factor" else 1e-5, "max_iter": 2000, "random_state": 0}
    model = ESTIMATORS[name]
    plain, fast = model(**options).fit(X), model(**options, accelerate="squarem").fit(X)
    assert fast.n_iter_ < plain.n_iter_
    assert fast.score(X) >= plain.score(X) - 1e-4
    with pytest.raises(ValueError, match=r"'accelerate' parameter of .* must be None or a str among {'squarem'}"):
        model(accelerate="warp").fit(X)
