"""A large text table piece by piece: rows of cells as arrow columns, with the number of each row's line.

pyarrow splits those pieces into cells that it reads as the careful reader (:mod:`trainctl.data.tables.text`)
does, which their bytes show. The careful reader takes the others, and from the first quote that is not at an
end of a cell the rest of the file: only it knows where rows end there.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow
from pyarrow import compute
from pyarrow import csv as arrow_csv

from trainctl.data.files import opened
from trainctl.data.progress import Progress
from trainctl.data.tables.text import no_encoding, rows, undecodable, unreadable
from trainctl.errors import ConfigError

Array = np.ndarray[Any, Any]
Cells = Any
"""A ``pyarrow.StringArray``: None for an empty cell."""
_PIECE = 1 << 21
_CAREFUL_ROWS = 20_000
_TAB, _LF, _CR, _QUOTE, _FIRST_PRINTED = 9, 10, 13, 34, 32
# White space beyond ASCII, in UTF-8: str.strip takes it off, pyarrow does not.
_ODD_SPACES = [
    re.compile(pattern)
    for pattern in (
        b"\xc2[\x85\xa0]",
        b"\xe1\x9a\x80",
        b"\xe2\x80[\x80-\x8a\xa8\xa9\xaf]",
        b"\xe2\x81\x9f",
        b"\xe3\x80\x80",
    )
]


@dataclass(frozen=True)
class Layout:
    """Where the rows of a text file are, and how they are divided.

    Attributes:
        width: the number of cells in a row.
        offset, line: bytes (of the text in UTF-8) and lines before the first row.
    """

    file: Path
    encoding: str
    delimiter: str
    width: int = 0
    offset: int = 0
    line: int = 0


@dataclass(frozen=True)
class Piece:
    """Some rows: the lines they begin in, their cells by column, and rows with another number of cells.

    ``zeros``: there may be numbers such as 007.
    """

    lines: range | Array
    columns: list[Cells]
    zeros: bool = True
    uneven: Sequence[tuple[int, list[str]]] = ()

    def without_first(self, count: int) -> Piece:
        """The rows behind the first ``count``."""
        return replace(self, lines=self.lines[count:], columns=[cells[count:] for cells in self.columns])


class Utf8:
    """The content of a text file as UTF-8, without a byte order mark."""

    def __init__(self, content: BinaryIO, layout: Layout) -> None:
        self._content, self._layout = content, layout
        try:
            with contextlib.suppress(UnicodeDecodeError):
                b"a".decode(layout.encoding)
            decoder = codecs.getincrementaldecoder(layout.encoding)
        except (LookupError, ValueError) as error:
            raise no_encoding(layout.encoding) from error
        is_utf8 = codecs.lookup(layout.encoding).name in ("utf-8", "utf-8-sig")
        self._decoder = None if is_utf8 else decoder()
        self._lines, self._begun = 0, False

    def take(self, size: int = _PIECE) -> bytes:
        """The next bytes, about ``size``; none at the end. Raises ConfigError for another encoding."""
        found = self._content.read(size)
        if self._decoder is not None:
            found = self._transcoded(found, size)
        if not self._begun:
            found, self._begun = found.removeprefix(codecs.BOM_UTF8), True
        return found

    def _transcoded(self, found: bytes, size: int) -> bytes:
        assert self._decoder is not None
        while True:
            try:
                text = self._decoder.decode(found, final=not found)
            except UnicodeDecodeError as error:
                raise undecodable(
                    str(self._layout.file), self._layout.encoding, error, self._lines
                ) from error
            self._lines += found.count(b"\n")
            if text or not found:
                return text.encode()
            found = self._content.read(size)


Rows = Iterator[tuple[int, list[str], str]]
"""The line of a row, its cells, and why it is none."""


def blocks(layout: Layout, columns: Sequence[int]) -> Iterator[Piece | Rows]:
    """All rows, in pieces where pyarrow splits them, else one by one: a reader may do without some."""
    with opened(layout.file) as (content, _):
        for found, line in _wholes(Utf8(content, layout), layout, strict=False):
            if isinstance(found, _Whole):
                piece = found.split(columns) if found.regular else None
                yield piece or _one_by_one([found.content], layout, line)
            else:
                yield _one_by_one(found, layout, line)


def _one_by_one(content: Iterable[bytes], layout: Layout, line: int) -> Rows:
    # A byte that cannot be decoded becomes a character that no number and no category has.
    for begins, cells, wrong in rows(_lines(content, layout, line, "replace"), layout.delimiter, 0):
        yield line + begins, cells, wrong


def pieces(layout: Layout, columns: Sequence[int] | None = None) -> Iterator[Piece]:
    """All rows, of these columns only where they are given, by position.

    Raises ConfigError for bytes that are not text and rows that are none.
    """
    columns = range(layout.width) if columns is None else columns
    progress = Progress(f"reading {layout.file.name}", layout.file.stat().st_size)
    with opened(layout.file) as (content, stored):
        for found, line in _wholes(
            Utf8(content, layout), layout, read=lambda: progress.update(stored.tell())
        ):
            if isinstance(found, _Whole):
                yield found.read(columns)
            else:
                yield from _careful(found, layout, line, columns)


def _wholes(
    source: Utf8, layout: Layout, *, strict: bool = True, read: Callable[[], object] = lambda: None
) -> Iterator[tuple[_Whole | Iterable[bytes], int]]:
    """Whole rows, and the lines before them; from where nothing tells the ends of rows, the rest of the file.

    Args:
        strict: raise ConfigError for bytes that are not text, where such a rest begins otherwise.
        read: called whenever more of the file was read.
    """
    rest, line, is_last = _skipped(source, layout.offset), layout.line, False
    while not is_last:
        block = source.take(max(_PIECE, len(rest)))
        is_last = not block
        rest += block if block or not rest or rest.endswith(b"\n") else b"\n"
        read()
        try:
            found = _rows_in(rest, layout, line, is_last=is_last)
        except ConfigError:
            if strict:
                raise
            found = None
        if found is None:
            yield chain([rest], iter(source.take, b"")), line
            return
        if found.size:
            yield found, line
        rest, line = rest[found.size :], line + found.newlines


def _skipped(source: Utf8, size: int) -> bytes:
    found = b""
    while len(found) < size and (block := source.take()):
        found += block
    return found[size:]


@dataclass(frozen=True)
class _Whole:
    """Whole rows, whose ends are known."""

    layout: Layout
    content: bytes
    line: int
    size: int
    ends: Array
    newlines: int
    quoted: bool
    regular: bool
    lines: range | Array

    def read(self, columns: Sequence[int]) -> Piece:
        return (self.split(columns) if self.regular else None) or next(
            _careful([self.content], self.layout, self.line, columns, at_once=True)
        )

    def split(self, columns: Sequence[int]) -> Piece | None:
        """The cells as pyarrow splits them; None unless each row has as many as it must have."""
        content, width = self.content, self.layout.width
        if self.layout.delimiter == " ":
            content = re.sub(b"  +", b" ", content).lstrip(b" ").replace(b"\n ", b"\n")
            content = content.replace(b" \n", b"\n").replace(b" \r\n", b"\n")
        names = [str(number) for number in range(width)]
        try:
            table = arrow_csv.read_csv(
                pyarrow.py_buffer(content),
                arrow_csv.ReadOptions(use_threads=False, block_size=len(content) + 1, column_names=names),
                arrow_csv.ParseOptions(
                    delimiter=self.layout.delimiter,
                    quote_char='"' if self.quoted else False,
                    newlines_in_values=self.newlines > len(self.ends),
                ),
                arrow_csv.ConvertOptions(
                    check_utf8=False,
                    column_types=dict.fromkeys(names, pyarrow.string()),
                    include_columns=[names[column] for column in columns],
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
        except pyarrow.ArrowInvalid:
            return None
        if len(table) != len(self.ends):
            return None
        cells = [_trimmed(column, content) for column in table.combine_chunks().columns]
        lines = self.lines
        if all(column.null_count for column in cells):
            if len(columns) < width:
                whole = self.split(range(width))
                return whole and replace(whole, columns=[whole.columns[column] for column in columns])
            blank = np.logical_and.reduce([column.is_null().to_numpy(False) for column in cells])
            if blank.any():
                cells = [column.filter(pyarrow.array(~blank)) for column in cells]
                lines = np.asarray(lines)[~blank]
        return Piece(lines, cells, zeros=_have_zeros(content))


def _trimmed(column: Any, content: bytes) -> Cells:
    """The cells without white space around them."""
    cells = column.combine_chunks() if isinstance(column, pyarrow.ChunkedArray) else column
    if isinstance(cells, pyarrow.ChunkedArray):
        cells = cells.chunk(0) if cells.num_chunks else pyarrow.array([], pyarrow.string())
    if b" " not in content and b"\t" not in content:
        return cells
    cells = compute.ascii_trim_whitespace(cells)
    return compute.if_else(compute.equal(cells, ""), pyarrow.scalar(None, pyarrow.string()), cells)


def _have_zeros(content: bytes) -> bool:
    """Is there 0 and another digit where a cell, or a number behind its sign, may begin?"""
    data = np.frombuffer(content, np.uint8)
    first, second, third = data[:-2], data[1:-1], data[2:]
    inside = (first - ord("0") < 10) | (first == ord("."))
    places = np.flatnonzero((second == ord("0")) & (third - ord("0") < 10) & ~inside)
    # 1e-05 is no code: its zero follows the sign of an exponent.
    signed = np.isin(data[places], (ord("-"), ord("+"))) & np.isin(data[places - 1], (ord("e"), ord("E")))
    return (content[:1] == b"0" and content[1:2].isdigit()) or not signed.all()


def _rows_in(content: bytes, layout: Layout, line: int, *, is_last: bool) -> _Whole | None:
    """The rows that end in ``content``; None if quotes, line ends or the delimiter do not tell where."""
    data = np.frombuffer(content, np.uint8)
    newlines = np.flatnonzero(data == _LF)
    ends, quotes = newlines, np.empty(0, np.int64)
    if b'"' in content:
        quotes = np.flatnonzero(data == _QUOTE)
        ends = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
    if not _at_ends_of_cells(data, quotes, layout.delimiter):
        return None
    size = int(ends[-1]) + 1 if len(ends) else 0
    if is_last and size < len(content):
        return None  # a quote without an end
    content, data = content[:size], data[:size]
    newlines, quotes = newlines[newlines < size], quotes[quotes < size]
    if b"\r" in content and content.count(b"\r") != content.count(b"\r\n"):
        return None
    lines: range | Array = range(line + 1, line + 1 + len(ends))
    if len(ends) < len(newlines):
        lines = np.concatenate([[0], np.searchsorted(newlines, ends[:-1], "right")]) + line + 1
    regular = _is_regular(content, data, newlines, layout, line, quoted=len(quotes) > 0)
    return _Whole(layout, content, line, size, ends, len(newlines), len(quotes) > 0, regular, lines)


def _at_ends_of_cells(data: Array, quotes: Array, delimiter: str) -> bool:
    """Is every quote the first or last of a cell, or one of two inside of a quoted cell?"""
    if not delimiter.isascii():
        return False
    begin, end = quotes[::2], quotes[1::2]
    before, after = data[begin[begin > 0] - 1], data[end[end + 1 < len(data)] + 1]
    return bool(
        np.isin(before, (ord(delimiter), _LF, _QUOTE)).all()
        and np.isin(after, (ord(delimiter), _LF, _CR, _QUOTE)).all()
    )


def _is_regular(
    content: bytes, data: Array, newlines: Array, layout: Layout, line: int, *, quoted: bool
) -> bool:
    """Does pyarrow read these rows as the careful reader does? Raises ConfigError if it is not UTF-8."""
    controls, tabs = int(np.count_nonzero(data < _FIRST_PRINTED)) - len(newlines), b"\t" in content
    if controls and controls != np.count_nonzero((data == _TAB) | (data == _CR)):
        return False
    # Found by position: a search for two line ends is slow where there are many single ones.
    if content[:1] in b"\r\n" or np.isin(data[newlines[:-1] + 1], (_LF, _CR)).any():
        return False
    if layout.delimiter == " " and (quoted or tabs):
        return False
    if content.isascii():
        return True
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise undecodable(str(layout.file), layout.encoding, error, line) from error
    if "\ufeff" in text or not unicodedata.is_normalized("NFC", text):
        return False
    return not any(space.search(content) for space in _ODD_SPACES)


def _careful(
    blocks: Iterable[bytes], layout: Layout, line: int, columns: Sequence[int], *, at_once: bool = False
) -> Iterator[Piece]:
    """Rows as the careful reader divides them; all in one piece if ``at_once``."""
    found = rows(_lines(blocks, layout, line), layout.delimiter, 0)
    while True:
        even: list[tuple[int, list[str]]] = []
        uneven: list[tuple[int, list[str]]] = []
        for begins, cells, wrong in found if at_once else islice(found, _CAREFUL_ROWS):
            if wrong:
                raise unreadable(str(layout.file), line + begins, wrong)
            (even if len(cells) == layout.width else uneven).append((line + begins, cells))
        if even or uneven or at_once:
            taken = [[cells[column] or None for _, cells in even] for column in columns]
            lines = np.array([begins for begins, _ in even], np.int64)
            found_cells = [pyarrow.array(cells, pyarrow.string()) for cells in taken]
            yield Piece(lines, found_cells, uneven=uneven)
        if at_once or not (even or uneven):
            return


def _lines(blocks: Iterable[bytes], layout: Layout, line: int, errors: str = "strict") -> Iterator[str]:
    """The lines with their ends, which are those of Python's csv."""
    decoder, rest = codecs.getincrementaldecoder("utf-8")(errors), ""
    for block in chain(blocks, [b""]):
        try:
            rest += decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise undecodable(str(layout.file), layout.encoding, error, line) from error
        line += block.count(b"\n")
        *whole, rest = [*io.StringIO(rest, newline="")] or [""]
        yield from whole
    if rest:
        yield rest
