"""The output of a smoke run: a line for each config when it is done, and a summary."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from rich.text import Text

from trainctl.smoke.report import PHASES, Report
from trainctl.training.display import counted, duration
from trainctl.ui.console import SafeConsole

_STYLES = {"ok": "green", "FAILED": "bold red", "skipped": "yellow"}


class Lines:
    """A line for each config, then a summary."""

    def __init__(self, labels: Sequence[str], stream: TextIO | None = None) -> None:
        stream = stream or sys.stdout
        self._console = SafeConsole(stream, markup=False, soft_wrap=True)
        self._width = max(map(len, labels), default=0)
        self._total = len(labels)

    def begin(self, jobs: int) -> None:
        """How many configs and which phases are to come."""
        self._console.print(Text(f"{counted(self._total, 'config')}, {jobs} at a time: {', '.join(PHASES)}"))

    def show(self, report: Report) -> None:
        """A config is done: the phase that failed, skipped phases with the reason, notes."""
        outcome = status(report)
        line = Text(f"{outcome:<8}", style=_STYLES[outcome])
        line.append(f"{report.label:<{self._width}}  {duration(report.seconds):>6}", style="default")
        remarks = []
        if report.failed is not None:
            remarks.append(f"{report.failed.phase}: {' '.join(report.failed.reason.split())}")
        remarks += [
            f"skipped {', '.join(phases)}: {' '.join(reason.split())}"
            for reason, phases in report.skipped().items()
        ]
        remarks += report.notes
        line.append(f"  {'; '.join(remarks)}" if remarks else "", style="default" if report.failed else "dim")
        self._console.print(line)

    def end(self, reports: Sequence[Report], seconds: float) -> None:
        """The counts, then the failures again."""
        outcomes = [status(report) for report in reports]
        failed = [report for report in reports if report.failed is not None]
        counts = [f"{outcomes.count('ok')} passed", f"{len(failed)} failed"]
        if "skipped" in outcomes:
            counts.append(f"{outcomes.count('skipped')} skipped")
        phases = [result for report in reports for result in report.results]
        skipped = sum(each.status == "skipped" for each in phases)
        style = "bold red" if failed else "green"
        summary = Text(f"{counted(len(reports), 'config')}: {', '.join(counts)}", style=style)
        summary.append(
            f"; {len(phases)} phases, {skipped} of them skipped; {duration(seconds)}", style="default"
        )
        self._console.print(summary)
        for report in failed:
            assert report.failed is not None
            self._console.print(Text(f"failed: {report.label}, {report.failed.phase}"))


def status(report: Report) -> str:
    """``ok``, ``FAILED``, or ``skipped`` where the config could not be built."""
    if report.failed is not None:
        return "FAILED"
    built = any(each.phase == "build" and each.status == "passed" for each in report.results)
    return "ok" if built else "skipped"
