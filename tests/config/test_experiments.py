"""Every recipe says its command, its result and its time, and composes."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainctl.config.composer import Composer
from trainctl.registry import COMPONENTS

CONF = Path(__file__).parents[2] / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_its_header_says_command_result_and_time(name: str) -> None:
    header = (CONF / "experiment" / f"{name}.yaml").read_text().split("defaults:")[0]
    assert f"# command: trainctl experiment={name}" in header
    assert any(line.startswith("# result:  ") and any(map(str.isdigit, line)) for line in header.splitlines())
    assert any(line.startswith("# time:    ") and any(map(str.isdigit, line)) for line in header.splitlines())


@pytest.mark.slow
def test_each_leads_its_whole_life_without_its_data(trainctl) -> None:
    outcome = trainctl("smoke", f"experiment={','.join(EXPERIMENTS)}")
    assert outcome.code == 0, outcome.out
    assert f"{len(EXPERIMENTS)} configs: " in outcome.out


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "group",
    # A fifth of a second an option: the two long families only in `make test-all`.
    [
        pytest.param(group, marks=pytest.mark.slow) if group in ("loss", "optim") else group
        for group in COMPONENTS
    ],
)
def test_every_component_has_an_option_file_that_composes(group: str) -> None:
    composer = Composer()
    for name in COMPONENTS[group].names():
        config = composer.compose([f"{group}={name}"]).config
        assert getattr(config, group).name == name
