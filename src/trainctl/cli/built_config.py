"""The config of verbs that need no run, built: trace and tune."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainctl.training.startup import collector_paused, importing

if TYPE_CHECKING:
    from trainctl.cli.options import Asked
    from trainctl.config.settings import Config
    from trainctl.training.built import Built


@contextlib.contextmanager
def built_from(asked: Asked) -> Iterator[tuple[Config, Built]]:
    """Compose and build what training would from the overrides of a verb that has the options of CONFIG.

    Notices go to standard error. Raises ConfigError as training does.
    """
    with collector_paused():
        from trainctl.config.composer import Composer
        from trainctl.config.overrides import to_hydra

        composer = Composer(asked["--config-dir"], asked["--config-name"])
        composed = composer.compose([to_hydra(override) for override in asked.overrides])
    with importing():
        from trainctl.training.build import build
    with contextlib.closing(build(composed.config)) as built:
        for notice in (*composed.notices, *built.notices):
            print(notice, file=sys.stderr)
        yield composed.config, built
