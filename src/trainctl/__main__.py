"""``python -m trainctl`` is the program ``trainctl``."""

import sys

from trainctl.cli import main

sys.exit(main())
