"""The command line ``fastem``: what it is asked, the files that it reads and writes, what it shows."""

from fastem.cli.entry import main, run

__all__ = ["main", "run"]
