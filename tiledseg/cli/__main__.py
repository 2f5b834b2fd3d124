"""``python -m tiledseg.cli``: the same as ``tiledseg``."""

import sys

from tiledseg.cli._main import main

sys.exit(main())
