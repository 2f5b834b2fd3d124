"""``python -m tiledseg``: the same as ``tiledseg``."""

import sys

from tiledseg.cli import main

if __name__ == "__main__":
    sys.exit(main())
