"""``python -m lightning_normdyn`` is the same as ``normdyn``."""

import sys

from lightning_normdyn.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
