"""A process that trains with another one, which has started it: ``python -m trainctl.cli.rank``."""

from __future__ import annotations

import sys

from trainctl.cli.main import answered
from trainctl.distributed.launch import LEFT_ALONE
from trainctl.errors import RankError
from trainctl.training.startup import importing
from trainctl.ui.errors import show_error


def follow() -> int:
    """Read which run to do, and do this process's part of it."""
    with importing():
        from trainctl.training.together import follow_parent

    try:
        follow_parent()
    except RankError as error:
        show_error(error)
        return LEFT_ALONE
    return 0


if __name__ == "__main__":
    sys.exit(answered(follow))
