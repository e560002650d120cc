"""A process that trains with another one, which has started it: ``python -m trainctl.cli.rank``."""

from __future__ import annotations

import sys

from trainctl.cli.main import answered
from trainctl.training.startup import importing


def follow() -> int:
    """Read which run to do, and do this process's part of it."""
    with importing():
        from trainctl.training.together import follow_parent

    follow_parent()
    return 0


if __name__ == "__main__":
    sys.exit(answered(follow))
