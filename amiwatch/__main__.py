"""``python -m amiwatch`` is the command ``amiwatch``."""

from amiwatch.cli.main import main

main()
