"""The config of verbs that need no run, built: trace and tune."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from trainctl.training.startup import collector_paused, importing

if TYPE_CHECKING:
    from trainctl.config.settings import Config
    from trainctl.training.build import Built


@contextlib.contextmanager
def built_from(overrides: Sequence[str], options: Mapping[str, str]) -> Iterator[tuple[Config, Built]]:
    """Compose and build what training would; ``options`` may have ``--config-dir`` and ``--config-name``.

    Notices go to standard error. Raises ConfigError as training does.
    """
    with collector_paused():
        from trainctl.config.composer import Composer
        from trainctl.config.overrides import to_hydra

        composer = Composer(options.get("--config-dir"), options.get("--config-name"))
        composed = composer.compose([to_hydra(override) for override in overrides])
    with importing():
        from trainctl.training.build import build
    with contextlib.closing(build(composed.config)) as built:
        for notice in (*composed.notices, *built.notices):
            print(notice, file=sys.stderr)
        yield composed.config, built
