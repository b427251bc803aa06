"""Memory that serves again: never while any view of it is alive, and to nobody after the fit."""

import gc
import pickle
import weakref

import numpy as np
import pytest

import fastem
from fastem import pool, threads

SHAPE = (300, 600)


def address(array):
    return array.ctypes.data


def test_memory_serves_again_once_no_view_is_left():
    with pool.kept():
        first = pool.empty(SHAPE)
        place = address(first)
        part = first[3:7].T[:0].view(np.uint32)  # a view of views, of no number
        del first
        second = pool.empty(SHAPE)
        assert address(second) != place
        del part
        gc.collect()
        assert address(pool.empty(SHAPE)) == place
        del second


def test_arrays_are_as_those_of_numpy():
    with pool.kept():
        for dtype in (np.float32, np.float64, np.int64):
            made = pool.empty((2**18, 2), dtype)
            assert type(made) is np.ndarray
            assert made.dtype == dtype
            assert made.flags.c_contiguous
            assert made.flags.writeable
            assert made.flags.aligned
            made[:] = 3
            assert np.array_equal(pickle.loads(pickle.dumps(made)), made)
        small = pool.empty(5)
        assert small.flags.owndata


def test_what_is_alive_stays_and_all_else_is_given_back():
    with pool.kept():
        outer = pool._current.get()
        with pool.kept():  # one fit within another: one pool
            assert pool._current.get() is outer
        left = pool.empty(SHAPE)
        left[:] = 7.0
        pool.empty(SHAPE)
    gone = weakref.ref(outer)
    del outer
    assert gone() is None
    assert pool._current.get() is None
    assert np.all(left == 7.0)
    del left
    assert pool.empty(SHAPE).flags.owndata


def test_threads_of_a_fit_share_its_pool():
    places = []

    def task(number):
        made = pool.empty(SHAPE)
        places.append(address(made))
        made[:] = number
        assert np.all(made == number)

    with pool.kept():
        threads.map_tasks(task, 50, 4)
    assert len(set(places)) <= 4


def test_without_pages_numpy_serves(monkeypatch):
    def refused(size):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(pool, "_pages", refused)
    with pool.kept():
        made = pool.empty(SHAPE)
        assert made.shape == SHAPE
        assert made.flags.owndata


@pytest.mark.filterwarnings("ignore:.*converge")
@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_a_fit_does_not_depend_on_what_its_memory_held(monkeypatch, covariance_type):
    X = np.random.default_rng(0).standard_normal((700, 300)) + np.arange(700)[:, None] % 3
    model = fastem.GaussianMixture(
        3, covariance_type=covariance_type, max_iter=4, tol=0, random_state=0, reg_covar=0.1, n_threads=2
    )
    clean = model.fit(X).covariances_.copy()

    def soiled(*arguments, empty=pool.empty, **options):
        made = empty(*arguments, **options)
        made.fill(np.nan)
        used.append(made.nbytes)
        return made

    used = []
    monkeypatch.setattr(pool, "empty", soiled)
    assert np.array_equal(model.fit(X).covariances_, clean)
    assert len(used) > 5
