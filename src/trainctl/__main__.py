"""``python -m trainctl`` is the program ``trainctl``."""

import os
import sys

# Python puts the current folder first, where a random.py of the user's would hide Python's own.
_SOURCE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - before any import
if sys.path and sys.path[0] == os.getcwd() != _SOURCE:  # noqa: PTH109
    del sys.path[0]

from trainctl.cli.main import main  # noqa: E402

sys.exit(main())
