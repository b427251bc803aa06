"""Fewer iterations: extrapolation of the path that EM takes through the parameters.

An accelerator watches the steps of one run and proposes parameters farther along.  The engine tries them with the
E-step that it needs in any case: if the objective fell, the pass is thrown away and plain EM goes on from where it
was, so that the objective never falls because of an extrapolation and one pass is the most that a refusal costs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastem.families.base import Family


class Plain:
    """Plain EM: nothing is proposed."""

    def __init__(self, family: Family) -> None:
        self.family = family

    def propose(self, old: Any, new: Any) -> Any:
        """Return parameters to try instead of `new`, at which the EM step from `old` arrived, or None."""
        return None

    def judge(self, accepted: bool) -> bool:
        """Take note of whether the last proposal did not lower the objective; return `accepted`."""
        return accepted

    def forget(self) -> None:
        """Forget the path: the parameters were moved by other means than EM."""

    def state(self) -> dict[str, Any]:
        """Return what a saved run needs of the path: parameters as arrays, and numbers, by name."""
        return {}

    def recall(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""


class Squarem(Plain):
    r"""Squared iterative methods (SQUAREM, scheme S3): one extrapolation after every two EM steps.

    With r = x1 - x0 and v = (x2 - x1) - r the differences of two EM steps in unconstrained coordinates, the proposal
    is x0 + 2 a r + a^2 v with a = \|r\| / \|v\|, which is 1 / (1 - rate) if EM converges linearly with one rate.  An EM
    step follows before the next two are recorded.  The largest `a` grows while it is reached and shrinks at a refusal.

    References
    ----------
    Varadhan and Roland, "Simple and globally convergent methods for accelerating the convergence of any EM algorithm",
    Scandinavian Journal of Statistics 35, 2008.
    """

    LARGEST = 4.0  # the first limit of a, and the factor by which it grows
    LEAST = 1.01  # below this the proposal is EM's own point, a = 1

    def __init__(self, family: Family) -> None:
        super().__init__(family)
        self.largest = self.LARGEST
        self.reached = False
        self.refusals = 0  # in a row
        self.rest = 0  # EM steps before the next two are recorded
        self.step: tuple[Any, Any] | None = None

    def propose(self, old: Any, new: Any) -> Any:
        """Return the extrapolation of every second step, and None after the others."""
        if self.rest:
            self.rest -= 1
            return None
        if self.step is None:
            self.step = (old, new)
            return None
        (start, middle), self.step = self.step, None
        x0, x2 = self.family.pack(start, middle), self.family.pack(new, middle)  # x1 is 0
        r, v = -x0, x2 + x0
        length, bend = float(np.linalg.norm(r)), float(np.linalg.norm(v))
        if not (np.isfinite(length) and np.isfinite(bend)) or length <= self.LEAST * bend:
            return None
        self.reached = length >= self.largest * bend
        a = self.largest if self.reached else length / bend
        return self.family.unpack(x0 + 2 * a * r + a * a * v, middle)

    def judge(self, accepted: bool) -> bool:
        """Adapt the limit of `a`; after several refusals in a row let EM go on alone for longer and longer."""
        if accepted:
            self.largest *= self.LARGEST if self.reached else 1.0
            self.refusals, self.rest = 0, 1
        else:
            self.largest = max(1.5, 0.5 * self.largest)
            self.refusals += 1
            self.rest = min(2**self.refusals - 2, 62)
        return accepted

    def forget(self) -> None:
        """Record two new steps before the next proposal."""
        self.step = None

    def state(self) -> dict[str, Any]:
        """Return the limit of `a`, what may change it, and the step that is recorded."""
        step = None if self.step is None else [self.family.arrays_of(params) for params in self.step]
        kept = {name: getattr(self, name) for name in ("largest", "reached", "refusals", "rest")}
        return {**kept, "step": step}

    def recall(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        for name in ("largest", "reached", "refusals", "rest"):
            setattr(self, name, state[name])
        step = state["step"]
        self.step = None if step is None else (self.family.params_of(step[0]), self.family.params_of(step[1]))


METHODS: dict[str | None, type[Plain]] = {None: Plain, "squarem": Squarem}
