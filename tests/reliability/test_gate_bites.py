"""The gate turns red when a safeguard is taken away: sync, rename, random states, cursor, checksums."""

from __future__ import annotations

import pytest

from tests.reliability.bites import SAFEGUARDS
from tests.reliability.test_quick import gate


@pytest.mark.slow
def test_each_safeguard_taken_away_is_noticed() -> None:
    done = gate("bites", seconds=480)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("bites")]
    counts = [row.split()[-3:-1] for row in rows if "." in row.split()[-1]]
    assert [missed for _, missed in counts] == ["0"] * (len(SAFEGUARDS) + 7)
