"""``python -m erecap.profiling``."""

import sys

from erecap.profiling.cli import main

if __name__ == "__main__":
    sys.exit(main())
