"""What is found out of a config, phase by phase. Plain values: they travel between processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trainctl.smoke.cases import Case

PHASES = (
    "compose",
    "build",
    "train",
    "save",
    "kill",
    "resume",
    "compare",
    "evaluate",
    "predict",
    "export safetensors",
    "export torch",
    "export onnx",
)
ONCE = {"export torch": "torch", "export onnx": "onnx"}
"""The phases that take seconds and are done for the first config of each kind, with their formats."""
AFTER_FAILED = "after failed "
"""How the reason begins why a phase was not even tried."""


@dataclass(frozen=True)
class Result:
    """How a phase went: ``passed``, ``failed`` or ``skipped``, the last two with the reason."""

    phase: str
    status: str
    seconds: float = 0.0
    reason: str = ""


@dataclass
class Report:
    """One config.

    Attributes:
        label: what was tried, as it is typed.
        results: by phase, in the order of PHASES.
        notes: what people must be told: with what it was tried, which data was made up.
    """

    label: str
    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def failed(self) -> Result | None:
        """The phase that failed."""
        return next((each for each in self.results if each.status == "failed"), None)

    @property
    def complete(self) -> bool:
        """Whether every phase has a result."""
        return len(self.results) == len(PHASES)

    @property
    def seconds(self) -> float:
        return sum(each.seconds for each in self.results)

    @property
    def passed(self) -> int:
        """How many phases passed."""
        return sum(each.status == "passed" for each in self.results)

    def skipped(self) -> dict[str, list[str]]:
        """The phases that were skipped, by reason; without those that a failed one left over."""
        found: dict[str, list[str]] = {}
        for each in self.results:
            if each.status == "skipped" and not each.reason.startswith(AFTER_FAILED):
                found.setdefault(each.reason, []).append(each.phase)
        return found

    def enter(self, result: Result) -> None:
        """Add a result at its place."""
        self.results = sorted([*self.results, result], key=lambda each: PHASES.index(each.phase))

    def fail(self, reason: str) -> None:
        """The first phase without a result failed, and the rest is left out."""
        for phase in PHASES:
            if any(each.phase == phase for each in self.results):
                continue
            failed = self.failed
            status, why = (
                ("failed", reason) if failed is None else ("skipped", f"{AFTER_FAILED}{failed.phase}")
            )
            self.enter(Result(phase, status, reason=why))


@dataclass(frozen=True)
class Order:
    """What a worker is told to do: a whole life, or the phases of ``ONCE`` with the run ``used``."""

    number: int
    case: Case
    used: Path | None = None


@dataclass(frozen=True)
class Ended:
    """A life is over. ``once`` decides how its phases of ``ONCE`` go, ``used`` is the run to do them with.

    ``once`` is empty where nothing is left to do.
    """

    once: str
    used: Path
