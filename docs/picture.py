"""Draw ``docs/terminal.svg``, the picture of the README, from a real run.

    python docs/picture.py [DATA_ROOT]

With a DATA_ROOT that holds MNIST/raw it is the MNIST recipe, else the default run.
"""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from trainctl.config.composer import Composer
from trainctl.config.stored_config import stored_files
from trainctl.runs.directory import claim
from trainctl.training.display import Progress
from trainctl.training.request import Request, command_line
from trainctl.training.train import train
from trainctl.ui.live import Rich, Source

TARGET = Path(__file__).with_name("terminal.svg").resolve()


class Recorded(Rich):
    """The terminal display; the live line of the middle of the last epoch is kept and printed at the end."""

    def __init__(self, console: Console) -> None:
        super().__init__(io.StringIO(), every=100, console=console)
        self._kept: object = None

    def live(self, source: Source) -> None:
        self._source = source

    def step(self, progress: Progress) -> None:
        if progress.epoch == progress.epochs and progress.epoch_step <= progress.epoch_steps * 0.7:
            self._kept = self._render()

    def closing(self, rows: Mapping[str, Mapping[str, object]], places: Sequence[tuple[str, str]]) -> None:
        if self._kept is not None:
            self.console.print(self._kept)
        super().closing(rows, places)


def main(root: str | None) -> None:
    overrides = ["experiment=mnist_mlp", f"dataset.root={root}"] if root else ["epochs=5"]
    shown = ["experiment=mnist_mlp"] if root else overrides
    composed = Composer().compose(overrides)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        console = Console(
            record=True, width=100, file=io.StringIO(), force_terminal=True, color_system="truecolor"
        )
        console.print(f"[bold]$[/] {command_line(shown)}\n", highlight=False)
        directory = claim(Path("outputs/2026-11-21/09-30-00"), named=False)
        request = Request(composed.config, stored_files(composed), directory, (), command_line(shown))
        train(request, Recorded(console))
        # The picture loads no fonts: it uses those of the reader's machine.
        drawing = re.sub(r"@font-face\s*{[^}]*}", "", console.export_svg(title="trainctl"))
        drawing = drawing.replace("Fira Code", "Menlo, Consolas, DejaVu Sans Mono").replace(
            "<!-- Generated with Rich https://www.textualize.io -->", ""
        )
        TARGET.write_text(drawing, encoding="utf-8")


if __name__ == "__main__":
    main(str(Path(sys.argv[1]).resolve()) if len(sys.argv) > 1 else None)
