"""The gate turns red when a safeguard is taken away: sync, rename, random states, cursor, checksums."""

from __future__ import annotations

import pytest

from tests.reliability.bites import SAFEGUARDS
from tests.reliability.test_quick import gate


@pytest.mark.slow
def test_each_safeguard_taken_away_is_noticed() -> None:
    done = gate("bites", seconds=240)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("bites")]
    assert [row.split()[-3:-1] for row in rows] == [["1", "0"]] * len(SAFEGUARDS)
