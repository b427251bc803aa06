"""The table of a gate, on a terminal and as JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from asv_bench.gate import decide
from asv_bench.gate.decide import Verdict
from asv_bench.gate.pairs import Gate, Row

STYLES = {Verdict.SLOWER: "bold red", Verdict.FASTER: "green", Verdict.UNCLEAR: "yellow", Verdict.FINE: ""}
ORDER = (Verdict.SLOWER, Verdict.UNCLEAR, Verdict.FASTER, Verdict.FINE)


def show(gate: Gate, console: Console, every: bool) -> None:
    """Print the benchmarks that changed or are unclear, or all, the slowest first, and a line that sums up."""
    rows = sorted(gate.rows(), key=lambda row: (ORDER.index(row.verdict), -decide.effect(row.log_ratios).estimate))
    shown = [row for row in rows if every or row.verdict is not Verdict.FINE]
    if shown:
        console.print(_table(shown))
    for name, why in gate.broken.items():
        console.print(f"[bold red]broken[/] {name}: {why.strip().splitlines()[-1]}", highlight=False, soft_wrap=True)
    if gate.new:
        console.print(f"Not in BASE, and not compared: {', '.join(sorted(gate.new))}", highlight=False, soft_wrap=True)
    console.print(_sentence(gate, rows), highlight=False, soft_wrap=True)


def as_json(gate: Gate) -> dict[str, Any]:
    """Return what was measured: a dict that JSON can say."""
    return {
        "base": gate.base.commit,
        "head": gate.head.commit,
        "size": gate.size,
        "benchmarks": [
            {
                "name": row.name,
                "seconds": row.seconds,
                "verdict": row.verdict.value,
                **decide.effect(row.log_ratios)._asdict(),
                "log_ratios": row.log_ratios,
            }
            for row in gate.rows()
        ],
        "broken": gate.broken,
        "new": sorted(gate.new),
    }


def _table(rows: list[Row]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("benchmark", overflow="fold")
    for title in ("BASE", "HEAD", "95 % interval", "launches"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("verdict")
    for row in rows:
        effect = decide.effect(row.log_ratios)
        interval = f"{effect.low:+.1%} to {effect.high:+.1%}" if effect.high < float("inf") else "unknown"
        style, launches = STYLES[row.verdict], str(len(row.log_ratios))
        table.add_row(
            row.name, _time(row.seconds), f"{effect.estimate:+.1%}", interval, launches, row.verdict.value, style=style
        )
    return table


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} us"


def _sentence(gate: Gate, rows: list[Row]) -> str:
    counts = {verdict: sum(row.verdict is verdict for row in rows) for verdict in Verdict}
    sizes = f"{gate.size:.0%}"
    parts = [
        f"{counts[Verdict.SLOWER]} slower by more than {sizes}",
        f"{counts[Verdict.FASTER]} faster by more than {sizes}",
        f"{counts[Verdict.FINE]} not slower by {sizes}",
        f"{counts[Verdict.UNCLEAR]} unclear",
    ]
    if gate.broken:
        parts.append(f"{len(gate.broken)} broken")
    return f"{len(rows)} benchmarks of {gate.head.commit[:8]} against {gate.base.commit[:8]}: {', '.join(parts)}."
