"""What a sweep does before its first job."""

from __future__ import annotations

from typing import Any

import pytest

from trainctl.errors import ConfigError
from trainctl.sweep import start


class Basic:
    """A composer of sweeps over lists."""

    def sweeper(self, words: Any) -> tuple[str, dict[str, Any]]:
        return "basic", {}


@pytest.mark.parametrize(
    ("launcher", "expected"),
    [
        ("", ["server", "check"]),
        ("fused", ["server", "check"]),
        ("ray", ["check"]),
        ("joblib", ["check"]),
    ],
)
def test_workers_import_torch_while_jobs_are_checked(
    launcher: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def check(*_: Any) -> None:
        order.append("check")
        raise ConfigError("far enough")

    monkeypatch.setattr(start, "start_server", lambda: order.append("server"))
    monkeypatch.setattr(start, "check_jobs", check)
    composer: Any = Basic()
    words = [f"hydra/launcher={launcher}"] if launcher else []
    with pytest.raises(ConfigError, match="far enough"):
        start.sweep(composer, [*words, "seed=1,2"], "", None)  # type: ignore[arg-type]
    assert order == expected
