"""``python -m fastem.cli`` is the command ``fastem``."""

from fastem.cli.entry import main

main()
