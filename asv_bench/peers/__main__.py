"""Command line of the comparison."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from asv_bench.peers import timing

SECTIONS = ("iteration", "fit", "threads", "memory", "problems", "sizes", "quantisation")  # the last three of "many"


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison and return the exit status."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    if options.model == "kmeans":
        from asv_bench.peers.kmeans import run
    elif options.model == "kmeans-wide":
        from asv_bench.peers.wide import run
    elif options.model == "gmm-wide":
        from asv_bench.peers.gmm_wide import run
    elif options.model == "families":
        from asv_bench.peers.families import run
    elif options.model == "many":
        from asv_bench.peers.many import run
    elif options.model == "sparse":
        from asv_bench.peers.sparse import run
    elif options.model == "moves":
        from asv_bench.peers.moves import run
    else:
        from asv_bench.peers.gmm import run
    machine = timing.describe_machine(("sklearn", "daal4py", "faiss", "superkmeans"))
    print("\n".join(machine), flush=True)
    tables = run(options)
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": machine, "tables": tables}, indent=1))
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("python -m asv_bench.peers", description="Measure fastem beside its peers.")
    models = ("kmeans", "kmeans-wide", "gmm", "gmm-wide", "families", "many", "sparse", "moves")
    parser.add_argument("model", choices=models)
    parser.add_argument("--shapes", nargs="*", default=[], metavar="REGEX", help="only shapes that match, as '1M x 2'")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float64"), default=["float32", "float64"])
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, help="which tables; default: all")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each candidate, if the budget allows")
    parser.add_argument("--budget", type=float, default=40.0, help="seconds for a row; one turn is always made")
    parser.add_argument("--shrink", type=float, help="divide the number of rows: to try the program out")
    parser.add_argument("--quick", action="store_true", help="two turns on a fiftieth of the rows")
    parser.add_argument("--json", metavar="FILE", help="write the tables there, too")
    options = parser.parse_args(arguments)
    options.sections = options.sections or SECTIONS
    if options.quick:
        options.shrink, options.repeats, options.budget = options.shrink or 50.0, 2, 2.0
    options.shrink = options.shrink or 1.0
    return options


if __name__ == "__main__":
    timing.refuse_coretype("asv_bench.peers", sys.argv[1:])
    sys.exit(main())
