"""Standard output and error that cannot stop a command: their reader may go away, their disk may be full."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

from trainctl.runs.printable import shown
from trainctl.runs.secrets import masked


class Unbreakable:
    """A stream whose writes never fail: after the first that does, nothing more is written. Control
    characters are shown, not sent, as the text may come from files; secrets are masked.

    Attributes:
        error: why the first write failed.
        styled: the same stream for what has escaped its text itself and sends styles.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | ValueError | None = None
        self.styled = _Styled(self)

    def write(self, text: str) -> int:
        self.send(shown(masked(text, secrets_only=True)))
        return len(text)

    def send(self, text: str) -> None:
        """Write, with control characters."""
        self._try(lambda: self._stream.write(text))

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], object]) -> None:
        if self.error is None:
            try:
                action()
            except (OSError, ValueError) as error:
                self.error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Styled:
    def __init__(self, stream: Unbreakable) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.send(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def unbreakable_streams() -> Iterator[Unbreakable]:
    """Make ``sys.stdout`` and ``sys.stderr`` unbreakable; gives the first of them.

    A stream that was closed from the start is the null device: a file that is opened later would get its
    number, and whatever a library prints would go there. One that does not block, as that of a program which
    shares it may be, blocks meanwhile: Python loses what the reader is too slow for, without an error.
    """
    impatient = []
    for number in (0, 1, 2):
        try:
            if not os.get_blocking(number) and number > 0:
                os.set_blocking(number, True)
                impatient.append(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
    before = sys.stdout, sys.stderr
    null = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - open as long as the streams are
    streams = [Unbreakable(stream or null) for stream in before]
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without × or · must not end a run
    sys.stdout, sys.stderr = cast(tuple[TextIO, TextIO], streams)
    try:
        yield streams[0]
    finally:
        sys.stdout, sys.stderr = before
        null.close()
        for stream in streams:
            stream.flush()
            if stream.error is not None:
                _silence(stream)
        for number in impatient:
            with contextlib.suppress(OSError):
                os.set_blocking(number, False)


def _silence(stream: Unbreakable) -> None:
    """Python flushes the stream once more when it exits, and would complain."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
