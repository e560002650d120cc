"""What the verbs that try out a config without a run have in common: the config, built."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from trainctl.training.startup import collector_paused, importing

if TYPE_CHECKING:
    from trainctl.config.settings import Config
    from trainctl.training.build import Built


@contextlib.contextmanager
def built_from(
    overrides: Sequence[str], config_dir: str | None, config_name: str | None
) -> Iterator[tuple[Config, Built]]:
    """Compose and build what training would for these words; notices go to stderr.

    Raises ConfigError as training does.
    """
    with collector_paused():
        from trainctl.config.composer import Composer
        from trainctl.config.overrides import to_hydra

        composed = Composer(config_dir, config_name).compose([to_hydra(word) for word in overrides])
    with importing():
        from trainctl.training.build import build
    with contextlib.closing(build(composed.config)) as built:
        for notice in (*composed.notices, *built.notices):
            print(notice, file=sys.stderr)
        yield composed.config, built
