"""``python -m tiledseg.cli``: the same as ``tiledseg``."""

import sys

from tiledseg.cli.app import main

sys.exit(main())
