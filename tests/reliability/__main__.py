"""``python -m tests.reliability [--quick] [KIND …]``: try it all, or the kinds that have one of the words."""

from __future__ import annotations

import os
import sys

# Before torch is imported: a pool of threads does not survive a fork.
os.environ["OMP_NUM_THREADS"] = "1"
# Drawn when all is written: the same pictures some ten thousand times.
os.environ["TRAINCTL_PICTURES"] = "0"


def main() -> int:
    from tests.reliability.gate import run

    words = sys.argv[1:]
    return run([word for word in words if word != "--quick"], quick="--quick" in words)


if __name__ == "__main__":
    sys.exit(main())
