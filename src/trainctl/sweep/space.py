"""The search space: the intervals, choices and ranges among a command line's words. No torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer

from trainctl.config.overrides import split_override, to_display
from trainctl.errors import ConfigError, Problem

_DIGITS = 6


@dataclass(frozen=True)
class Choice:
    """One of several values, as Hydra writes them. All are checked before the search begins."""

    values: tuple[str, ...]

    @property
    def extremes(self) -> tuple[str, ...]:
        return self.values

    @property
    def size(self) -> float:
        return len(self.values)

    def text(self, value: str) -> str:
        return value


@dataclass(frozen=True)
class Interval:
    """Numbers from ``low`` to ``high``, both included; whole ones where these are.

    Attributes:
        step: between neighbours; None for any number.
        log: equal ratios are equally likely, instead of equal differences.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def extremes(self) -> tuple[float, ...]:
        """The ends: they are checked before the search begins."""
        return (self.low, self.high) if self.low < self.high else (self.low,)

    @property
    def size(self) -> float:
        """The number of values."""
        if self.step is None and not self.whole:
            return math.inf
        return round((self.high - self.low) / (self.step or 1)) + 1

    @property
    def values(self) -> Sequence[float]:
        """All values, where ``size`` is finite."""
        return [self.low + index * (self.step or 1) for index in range(int(self.size))]

    def text(self, value: float) -> str:
        """A value for the command line: six digits, or all of them in a very narrow interval."""
        if self.whole:
            return str(int(value))
        rounded = float(f"{value:.{_DIGITS}g}")
        width = (self.high - self.low) / max(abs(self.low), abs(self.high))
        fits = self.low <= rounded <= self.high and width > 10 ** (3 - _DIGITS)
        return repr(rounded if fits else float(value))


Domain = Choice | Interval


@dataclass(frozen=True)
class Space:
    """A search space.

    Attributes:
        words: the command line's, in their order; None in place of a parameter.
        domains: of each parameter, by its key as it was typed, sign included; in their order.
    """

    words: tuple[str | None, ...]
    domains: Mapping[str, Domain]

    def job(self, values: Mapping[str, Any]) -> list[str]:
        """The words of the job with these values of the parameters."""
        chosen = iter(self.chosen(values))
        return [next(chosen) if word is None else word for word in self.words]

    def chosen(self, values: Mapping[str, Any]) -> list[str]:
        """The words of the parameters alone. Raises ConfigError for values that are none of the space's."""
        try:
            return [f"{key}={domain.text(values[key])}" for key, domain in self.domains.items()]
        except (TypeError, ValueError, LookupError) as error:
            reason = f"the search holds values that are none of its space: {dict(values)!r:.80}"
            raise ConfigError(reason, "start another search") from error

    def corners(self) -> Iterator[list[str]]:
        """Jobs that have between them every choice and both ends of every interval."""
        first = {key: domain.extremes[0] for key, domain in self.domains.items()}
        yield self.job(first)
        for key, domain in self.domains.items():
            for value in domain.extremes[1:]:
                yield self.job({**first, key: value})

    @property
    def size(self) -> float:
        """The number of combinations."""
        return math.prod(domain.size for domain in self.domains.values())

    def combinations(self) -> list[dict[str, Any]]:
        """All of them, the last parameter varying fastest. Only where ``size`` is finite."""
        values = [domain.values for domain in self.domains.values()]
        return [dict(zip(self.domains, each, strict=True)) for each in itertools.product(*values)]


def parse_space(overrides: Sequence[Override]) -> Space:
    """The search space of parsed words. Raises ConfigError with every invalid word."""
    words: list[str | None] = []
    domains: dict[str, Domain] = {}
    problems: list[Problem] = []
    for override in overrides:
        word = override.input_line or ""
        if not override.is_sweep_override():
            words.append(word)
            continue
        sign, key, _ = split_override(word)
        words.append(None)
        try:
            domains[f"{sign}{key}"] = _domain(override)
        except ConfigError as error:
            shown = to_display(word)
            problems += [Problem(f"{shown}: {each.message}", each.remedy) for each in error.problems]
    if problems:
        raise ConfigError(problems)
    if not domains:
        raise ConfigError(
            "hydra/sweeper=optuna: there is nothing to search over",
            "give a key several values: lr='tag(log,interval(1e-4,1e-1))' optim=sgd,adam",
        )
    if len(domains) < words.count(None):
        raise ConfigError("a key is given an interval or a choice twice", "give each key once")
    return Space(tuple(words), domains)


def _domain(override: Override) -> Domain:
    value = override.value()
    if isinstance(value, IntervalSweep):
        return _interval(value)
    if tags := getattr(value, "tags", None):
        raise ConfigError(f"tag({', '.join(sorted(tags))}) goes with an interval", "tag(log,interval(a,b))")
    if isinstance(value, RangeSweep) and not value.shuffle:
        return _range(value)
    choices = tuple(str(each) for each in override.sweep_iterator(transformer=Transformer.encode))
    if not choices:
        raise ConfigError("there is nothing to choose from")
    return Choice(tuple(dict.fromkeys(choices)))


def _interval(value: IntervalSweep) -> Interval:
    low, high = cast(float, value.start), cast(float, value.end)
    for tag in sorted(value.tags - {"log"}):
        raise ConfigError(f"there is no tag {tag}", "there is: log")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError("the interval is empty", "the smaller number comes first: interval(1e-4,1e-1)")
    log = "log" in value.tags
    if log and low <= 0:
        raise ConfigError("an interval with tag(log, …) begins above 0", "begin it at 1e-6, say")
    return Interval(low, high, log=log)


def _range(value: RangeSweep) -> Domain:
    if value.step == 0:
        raise ConfigError("the range has no step")
    numbers = sorted(cast(Sequence[float], list(value.range())))
    if not numbers:
        raise ConfigError("the range is empty", "range(1,10,2) is 1, 3, 5, 7, 9: the end does not count")
    return Interval(numbers[0], numbers[-1], step=abs(value.step))
