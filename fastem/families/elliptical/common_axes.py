"""The axes that covariances have in common, of the least deviance under a rule for the variances along them.

Two steps are taken in turns: variances given the axes, and axes given the variances, by Jacobi's rotations in place of
the majorisation of Browne and McNicholas ("Estimating common principal components in high dimensions", ADAC 8, 2014).
Alone they take hundreds of turns to stand still; Anderson's mixing of the last ones ("Iterative procedures for
nonlinear integral equations", JACM 12, 1965) takes some thirty.  Sixteen covariances of sixteen features: 28 and 3 ms.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastem.kernels.common_axes import rotate_axes

Rule = Callable[[np.ndarray], np.ndarray]
# The largest sine of a rotation that ends the turns, and how many there are at most.
STILL, MOST_TURNS = 1e-12, 500
# Turns that are mixed, and after how many they are; the sine from which they are too far apart for it; and how much
# farther than the last turn a mixture may go, beyond which it is made of rounding.
MIXED, EVERY, FAR, REACH = 20, 4, 0.1, 100.0


class _Turn:
    """Axes (d, d), the covariances in their coordinates, and the variances that a rule allows there."""

    def __init__(self, shares: np.ndarray, covariances: np.ndarray, axes: np.ndarray, rule: Rule) -> None:
        self.shares, self.rule, self.axes = shares, rule, axes
        self.turned = axes.T @ covariances @ axes
        self._allow()

    def _allow(self) -> None:
        self.allowed = self.rule(np.diagonal(self.turned, axis1=1, axis2=2))
        # What an M-step minimises, up to a constant: the quadratic terms are d for any axes.
        self.deviance = float(self.shares @ np.log(self.allowed).sum(axis=1))

    def rotate(self) -> float:
        """Rotate each pair of axes once, given the variances; return the largest sine."""
        sine = float(rotate_axes(self.turned, self.shares[:, None] / self.allowed, self.axes))
        self._allow()
        return sine


def common_axes(shares: np.ndarray, covariances: np.ndarray, previous: np.ndarray, rule: Rule) -> np.ndarray:
    """Return orthogonal axes, in columns.

    Parameters
    ----------
    shares : ndarray (k,)
        Weights of the components, which sum to 1.
    covariances, previous : ndarray (k, d, d)
        The covariances without constraint, and those of the last M-step.  There may be several minima: turns begin
        with the better of the previous axes and those of the mean covariance, and no turn makes the deviance larger.
    rule : function from variances (k, d) to those allowed (k, d)
        The M-step of variances along given axes.

    Returns
    -------
    ndarray (d, d)
    """
    starts = [_axes_of(shares, previous), np.linalg.eigh(np.tensordot(shares, covariances, 1))[1]]
    now = min((_Turn(shares, covariances, axes, rule) for axes in starts), key=lambda turn: turn.deviance)
    identity = np.eye(len(now.axes))
    before: list[np.ndarray] = []
    after: list[np.ndarray] = []
    for number in range(MOST_TURNS):
        before.append(now.axes.ravel().copy())
        sine = now.rotate()
        after.append(now.axes.ravel().copy())
        del before[:-MIXED], after[:-MIXED]
        if sine <= STILL:
            break
        if sine > FAR:
            before, after = [], []
        elif number % EVERY == EVERY - 1 and len(before) > 1:
            axes = _mixed(np.array(before), np.array(after), now.axes.shape)
            # What is far off or not orthogonal, or no number, may not be asked for its variances.
            near = np.abs(axes - now.axes).max() <= REACH * sine and np.abs(axes.T @ axes - identity).max() < 1e-10
            mixed = _Turn(shares, covariances, axes, rule) if near else now
            if near and mixed.deviance <= now.deviance + STILL:
                now = mixed
            else:
                before, after = [], []
    return np.linalg.qr(now.axes)[0]  # thousands of rotations leave them orthogonal to 1e-13 only


def _mixed(before: np.ndarray, after: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the combination of turns (m, d d) that would stand still if they were linear, made orthogonal."""
    steps = after - before
    differences = np.diff(steps, axis=0)
    normal = differences @ differences.T
    normal[np.diag_indices_from(normal)] *= 1.0 + 1e-10  # nearly singular where turns are alike
    factors = np.linalg.lstsq(normal, differences @ steps[-1], rcond=None)[0]
    axes = (after[-1] - factors @ np.diff(after, axis=0)).reshape(shape)
    with np.errstate(over="ignore", invalid="ignore"):  # far from orthogonal it ends anywhere, and is refused
        for _ in range(5):  # Newton's iteration for the nearest orthogonal matrix: the error is squared
            axes = 1.5 * axes - 0.5 * axes @ (axes.T @ axes)
    return axes


def _axes_of(shares: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """Return the axes that covariances have in common: those of a sum in which their variances do not cancel."""
    scales = np.trace(covariances, axis1=1, axis2=2)
    unequal = 1.0 + np.sqrt(np.arange(2.0, 2.0 + len(shares))) % 1.0
    return np.linalg.eigh(np.tensordot(unequal / scales, covariances, 1))[1]
