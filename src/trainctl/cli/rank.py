"""A process that trains with another one, which has started it: ``python -m trainctl.cli.rank``."""

from __future__ import annotations

import json
import sys

from trainctl.cli.main import answered
from trainctl.distributed.context import launched
from trainctl.distributed.launch import end_with_parent
from trainctl.training.startup import importing


def follow() -> int:
    """Read which run to do, and do this process's part of it."""
    with importing():
        from trainctl.training.together import follow_parent

    world, line = launched(), end_with_parent()
    if world is not None and line:
        follow_parent(world, json.loads(line))
    return 0


if __name__ == "__main__":
    sys.exit(answered(follow))
