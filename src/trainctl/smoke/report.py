"""The results of one config, phase by phase: plain values that travel between processes."""

from __future__ import annotations

from dataclasses import dataclass, field

PHASES = (
    "compose",
    "build",
    "train",
    "save",
    "kill",
    "resume",
    "compare",
    "devices",
    "evaluate",
    "predict",
    "export safetensors",
    "export torch",
    "export onnx",
)
ONCE = {"export torch": "torch", "export onnx": "onnx"}
"""The phases that take seconds, with their formats: done once for all configs whose program is the same."""
AFTER_FAILED = "after failed "
"""How the reason of a phase begins that was not tried."""


@dataclass(frozen=True)
class Result:
    """A phase that was ``passed``, ``failed`` or ``skipped``, the last two with the reason."""

    phase: str
    status: str
    seconds: float = 0.0
    reason: str = ""


@dataclass
class Report:
    """The results of one config, in the order of PHASES, and notes on how it was tried."""

    label: str
    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def failed(self) -> Result | None:
        """The first phase that failed."""
        return next((each for each in self.results if each.status == "failed"), None)

    @property
    def complete(self) -> bool:
        """Whether every phase has a result."""
        return len(self.results) == len(PHASES)

    @property
    def seconds(self) -> float:
        return sum(each.seconds for each in self.results)

    def skipped(self) -> dict[str, list[str]]:
        """The skipped phases by reason, without those after a failed one."""
        found: dict[str, list[str]] = {}
        for each in self.results:
            if each.status == "skipped" and not each.reason.startswith(AFTER_FAILED):
                found.setdefault(each.reason, []).append(each.phase)
        return found

    def enter(self, result: Result) -> None:
        """Add a result at its place."""
        self.results = sorted([*self.results, result], key=lambda each: PHASES.index(each.phase))

    def fail(self, reason: str) -> None:
        """The first phase without a result failed, and the rest is skipped."""
        known = {each.phase for each in self.results}
        for phase in PHASES:
            if phase in known:
                continue
            if self.failed is None:
                self.enter(Result(phase, "failed", reason=reason))
            else:
                self.enter(Result(phase, "skipped", reason=f"{AFTER_FAILED}{self.failed.phase}"))
