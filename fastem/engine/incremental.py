r"""Incremental EM: an M-step after the E-step of each block of rows, on the records of all blocks.

The free energy of Neal and Hinton is a sum over blocks b of rows, each with a distribution q_b over what is hidden,

    F(q, theta) = sum_b  E_qb[log p(x_b, z_b; theta)] + H(q_b)  <=  sum_b log p(x_b; theta).

EM raises F over all q, then over theta.  Here q of one block is raised at a time, q_b = p(z_b given x_b; theta), and an
M-step follows on the sum of all records, of which the others are of older parameters.  F never falls, and what it ends
at is a fixed point of EM; the rows of a pass meet parameters that have learnt from those before them in the same pass.
The first pass is one E-step of EM over all rows at the parameters of the start, and one M-step.

Blocks are met in the order of the rows.  They are aligned subtrees of the grid, and their records are merged by the
grid's tree, whose nodes are kept: a new record costs log2(blocks) additions, and nothing is ever subtracted.  Each node
is centred on the points of the last E-step below it; `Family.recentre` moves its neighbours there.

With L_b the log-likelihood of a block at the parameters theta_b of its E-step, where the bound is tight,

    F(q, theta) = sum_b L_b  +  Q(theta) - sum_b Q_b(theta_b),

with the Q of all records, which is linear in them (`Family.expected_log_likelihood`).

References
----------
Neal and Hinton, "A view of the EM algorithm that justifies incremental, sparse, and other variants", in Jordan (ed.),
"Learning in Graphical Models", 1998.
Thiesson, Meek and Heckerman, "Accelerating EM for large databases", Machine Learning 45, 2001 (blocks).
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np

from fastem import grid
from fastem.engine.checkpoint import ALONE, Restart
from fastem.engine.monitor import ROUNDING, Monitor, Settings
from fastem.engine.problem import Problem
from fastem.engine.result import Run
from fastem.families.base import Family, State
from fastem.sources import passes
from fastem.sources.memory import MemorySource
from fastem.sources.reading import BLOCK_ROWS, Tree


def block_rows(n_rows: int, n_blocks: int) -> int:
    """Return how many rows make a block, the last of which may be shorter: 2^m cells, for at most `n_blocks` blocks.

    Examples
    --------
    >>> block_rows(30_000, 8) // grid.CELL, block_rows(30_000, 4) // grid.CELL
    (2, 4)
    """
    rows = grid.CELL
    while rows * n_blocks < n_rows:
        rows *= 2
    return rows


class Node(NamedTuple):
    """The record of some blocks, and what their share in the bound is made of."""

    prepared: Any  # of the E-step on whose points the record is centred
    stats: Any
    loglik: float  # sum of L_b
    expected: float  # sum of Q_b(theta_b)


class Records:
    """The records of all blocks and their sums, by the tree that `grid.merge_tree` adds by.

    Parameters
    ----------
    family : Family
        Whose records they are.
    n_blocks : int
        How many there will be.
    """

    def __init__(self, family: Family, n_blocks: int) -> None:
        self.family = family
        self.levels: list[list[Node | None]] = [[None] * n_blocks]
        while len(self.levels[-1]) > 1:
            self.levels.append([None] * -(-len(self.levels[-1]) // 2))

    @property
    def total(self) -> Node:
        """The sum of all records so far."""
        total = self.levels[-1][0]
        assert total is not None
        return total

    def replace(self, number: int, node: Node) -> None:
        """Put the record of a block in the place of its last one, and renew the sums above it."""
        self.levels[0][number] = node
        for below, above in itertools.pairwise(self.levels):
            number //= 2
            left, right = (*below[2 * number : 2 * number + 2], None)[:2]
            above[number] = self._sum(left, right, node.prepared) if left and right else left or right

    def _sum(self, left: Node, right: Node, onto: Any) -> Node:
        first, second = (self._about(onto, half) for half in (left, right))
        stats = type(first)(*[mine + others for mine, others in zip(first, second, strict=True)])
        return Node(onto, stats, left.loglik + right.loglik, left.expected + right.expected)

    def _about(self, onto: Any, node: Node) -> Any:
        return node.stats if node.prepared is onto else self.family.recentre(node.stats, node.prepared, onto)


class _Step(NamedTuple):
    """All records after the E-step of a block, and the bound that they make with its parameters."""

    params: Any
    prepared: Any
    stats: Any
    objective: float


class IncrementalRun:
    """One run of incremental EM, which may pause after any pass and goes on as if it had not.

    Parameters
    ----------
    problem : Problem
        Rows that are read in order, and the family.
    params : object
        The parameters to begin with.
    settings : Settings
        When to stop and what to keep; an iteration is a pass over all rows.
    restart : Restart
        Number, and what led to the start.

    Attributes
    ----------
    over : bool
        Whether the run has ended: it converged, was told to stop or has done all its passes.
    """

    final = None  # no E-step over all rows is of the parameters that `until` returned

    def __init__(self, problem: Problem, params: Any, settings: Settings, restart: Restart = ALONE) -> None:
        self.source, self.constants = problem.source, problem.constants
        self.family = problem.family.for_parts()
        self.layout = self.family.layout(self.source.n_features)
        self.rows = block_rows(self.source.n_rows, settings.n_blocks)
        self.monitor = Monitor(settings, restart.number, params)
        self.records = Records(self.family, -(-self.source.n_rows // self.rows))
        self.known: list[Any] = []  # of each block, what `constants_of_part` returned
        self.reached = restart.reached
        self.params, self.prepared = params, self.family.prepare(params, self.source.dtype)
        self.last: _Step | None = None
        self.over = settings.max_iter == 0

    def until(self, iteration: int) -> Run:
        """Go on to the end of this pass, counted from the start, or of the run; return where it stands then."""
        while not self.over and self.monitor.iteration < iteration:
            self._pass()
        family, params = self.family, self.params
        if family.final_pass or self.last is None:
            stats = self.source.accumulate(family, self.prepared)
            return self.monitor.run(params, family.objective(stats, self.constants, params), None)
        return self.monitor.run(params, self.last.objective, None)

    def _pass(self) -> None:
        """Meet every block by an E-step, and an M-step after each of all but the first pass."""
        first, tree, n_rows = self.last is None, Tree(), self.source.n_rows
        pieces: list[Any] = []
        for rows, X in self.source.in_order(min(self.rows, BLOCK_ROWS)):
            w, labels = self.source.sample_weight[rows], self.source.labels[rows]
            tree.add(passes.total(self.family, X, w, labels, self.prepared, self.source.n_threads))
            if first:
                pieces.append(self.family.constants_of_part(MemorySource(X, w, labels, self.source.n_threads)))
            if rows.stop % self.rows == 0 or rows.stop == n_rows:
                if first:
                    self.known.append(self._pooled(pieces))
                    pieces = []
                now = self._met((rows.stop - 1) // self.rows, self.layout.view(tree.total()))
                tree = Tree()
                if rows.stop == n_rows:
                    self._close(now)
                elif not first:
                    self._hold(now)
                    self._maximise(now)

    def _pooled(self, pieces: list[Any]) -> Any:
        """Return the constants of a block that came in pieces."""
        pooled = pieces[0]
        for other in pieces[1:]:
            pooled = self.family.pooled_constants(pooled, other, 1.0, 1.0)
        return pooled

    def _met(self, number: int, stats: Any) -> _Step:
        """Take the record of a block's E-step for its last one; return all records, and the bound."""
        family, params, prepared = self.family, self.params, self.prepared
        own = family.expected_log_likelihood(stats, self.known[number], prepared, params)
        self.records.replace(number, Node(prepared, stats, float(stats.loglik), own))
        total = self.records.total
        expected = family.expected_log_likelihood(total.stats, self.constants, prepared, params)
        bound = total.stats._replace(loglik=np.asarray(total.loglik + (expected - total.expected)))
        return _Step(params, prepared, total.stats, family.objective(bound, self.constants, params))

    def _close(self, now: _Step) -> None:
        """End a pass: take note of its bound, make the last M-step and see whether to go on."""
        before = self.monitor.objectives[-1] if self.monitor.objectives else self.reached
        self._hold(now)
        self.monitor.take(now.objective, self._slack)
        self._maximise(now)
        change = self.family.progress(State(now.params, before), State(self.params, now.objective))
        self.over = self.monitor.advance(change, self.params, settled=True)

    @property
    def _slack(self) -> float:
        return ROUNDING * float(np.finfo(self.source.dtype).eps)

    def _hold(self, now: _Step) -> None:
        """Certify that the bound has not fallen since the last block but for what the M-step between explains."""

        def shortfall() -> float:
            assert self.last is not None  # asked only after a fall
            last, family = self.last, self.family
            rounding = family.expected_rounding(now.stats, now.prepared, now.params)
            return rounding + family.shortfall(last.stats, self.constants, last.prepared, last.params, now.params)

        if self.last is not None:
            self.monitor.hold(self.last.objective, now.objective, self._slack, shortfall)

    def _maximise(self, now: _Step) -> None:
        step = self.family.m_step(now.stats, self.constants, now.prepared, now.params)
        for message in step.notes:
            self.monitor.note(message)
        self.last = now
        self.params = step.params
        self.prepared = self.family.prepare(step.params, self.source.dtype, now.prepared)
