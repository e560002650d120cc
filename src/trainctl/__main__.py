"""``python -m trainctl`` is the program ``trainctl``."""

import sys

from trainctl.cli.main import main

sys.exit(main())
