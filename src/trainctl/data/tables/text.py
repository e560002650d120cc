"""A file's bytes to rows of cells: encoding, delimiter, lines."""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, islice
from typing import BinaryIO

from trainctl.errors import ConfigError

_MARKS = (
    # UTF-32 first: its little-endian mark begins with UTF-16's.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NOT_TEXT = {
    b"PAR1": ("a Parquet file", "read it with dataset=parquet"),
    b"PK\x03\x04": ("a zip file or spreadsheet", "unpack it, or export the sheet as CSV"),
    b"\xd0\xcf\x11\xe0": ("an old spreadsheet", "export the sheet as CSV"),
    b"\x93NUMPY": ("a NumPy array", "save it with its targets by numpy.savez, and use dataset=npz"),
}
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x19\x1b-\x1f]")  # 0x1a ends files that come from DOS
_DELIMITERS = {"tab": "\t", "semicolon": ";", "pipe": "|", "comma": ",", "space": " "}
_SAMPLE_ROWS = 200
_PIECE = 1 << 20
_LONGEST_CELL = (1 << 31) - 1  # the module's own limit is 131,072 characters


def find_encoding(content: BinaryIO, file: str) -> str:
    """The encoding of a byte order mark, else UTF-8, else cp1252, which nearly any bytes could be.

    Raises ConfigError for a file that is not text.
    """
    start = content.read(_PIECE)
    marked = next((name for mark, name in _MARKS if start.startswith(mark)), None)
    if marked:
        return marked
    for mark, (what, remedy) in _NOT_TEXT.items():
        if start.startswith(mark):
            raise ConfigError(f"{file} is {what}, not text", remedy)
    if _CONTROL.search(start):
        raise ConfigError(
            f"{file} is not text: it has control bytes",
            "name the encoding if it is a rare one: dataset.encoding=utf-16-le",
        )
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for piece in chain([start], iter(partial(content.read, _PIECE), b"")):
            decoder.decode(piece)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def decode(raw: bytes, file: str, encoding: str) -> tuple[str, str]:
    """The text of a file, and its encoding; ``auto`` finds it.

    Raises ConfigError for a file that is not text, an unknown encoding, and bytes that it cannot decode.
    """
    if encoding == "auto":
        encoding = find_encoding(io.BytesIO(raw), file)
    try:
        return raw.decode(encoding).removeprefix("\ufeff"), encoding
    except UnicodeDecodeError as error:
        raise undecodable(file, encoding, error, 0) from error
    except (LookupError, ValueError) as error:
        raise no_encoding(encoding) from error


def undecodable(file: str, encoding: str, error: UnicodeDecodeError, lines: int) -> ConfigError:
    """The error for bytes that are not ``encoding``, in the text after so many ``lines``."""
    line = lines + error.object.count(b"\n", 0, error.start) + 1
    return ConfigError(
        f"{file}, line {line}: byte 0x{error.object[error.start]:02x} is not {encoding} ({error.reason})",
        "name the right encoding, or use dataset.encoding=auto",
    )


def no_encoding(encoding: str) -> ConfigError:
    return ConfigError(
        f"dataset.encoding={encoding}: Python has no such text encoding",
        "use auto, utf-8, utf-16, cp1252, latin-1, shift_jis …",
    )


def choose_delimiter(text: str, file: str, delimiter: str, skip_lines: int) -> str:
    """The delimiter: the given one, as a character or by name, or for ``auto`` the one that fits the lines.

    The one that fits splits most of the first lines into the same number of cells, two or more. csv.Sniffer
    fails on a table of 31 columns under a title line, and takes a decimal comma for the delimiter.

    Raises ConfigError when none fits.
    """
    if delimiter != "auto":
        named = _DELIMITERS.get(delimiter, "\t" if delimiter == "\\t" else delimiter)
        if len(named) != 1 or named in '\r\n"':
            raise ConfigError(
                f"dataset.delimiter={delimiter}: must be one character or a name",
                f"names are: auto, {', '.join(_DELIMITERS)}",
            )
        return named
    best, best_share = "", 0.0
    for candidate in _DELIMITERS.values():
        first = islice(rows(io.StringIO(text, newline=""), candidate, skip_lines), _SAMPLE_ROWS)
        sample = [len(cells) for _, cells, wrong in first if not wrong]
        width, count = Counter(sample).most_common(1)[0] if sample else (0, 0)
        # Ties go to the first: files with semicolons often have decimal commas.
        if width > 1 and count / len(sample) > best_share:
            best, best_share = candidate, count / len(sample)
    if not best:
        raise ConfigError(
            f"{file} has no columns: none of {', '.join(_DELIMITERS)} separates cells in its lines",
            "name another character with dataset.delimiter=; a table needs an input and a target",
        )
    return best


def delimiter_name(delimiter: str) -> str:
    return next((name for name, character in _DELIMITERS.items() if character == delimiter), delimiter)


def rows(lines: Iterable[str], delimiter: str, skip_lines: int) -> Iterator[tuple[int, list[str], str]]:
    """Each row that is not blank: the number of its first line, from 1, its stripped cells, and an error.

    The error says why the row cannot be read (a quoted cell without an end); it is empty if it can.
    """
    lines = (_clean(line) for line in lines)
    if delimiter == " ":
        # Columns aligned by spaces: several of them are one delimiter.
        lines = (f"{line.strip()}\n" for line in lines)
    lines = islice(lines, skip_lines, None)
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    while True:
        begins = skip_lines + reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            yield begins, [], f"the row cannot be read: {error}"
            continue
        if any(cells):
            yield begins, cells, ""


def _clean(line: str) -> str:
    """The line without DOS's end of a file and byte order marks, é as one character."""
    line = line.replace("\x1a", "")
    return line if line.isascii() else unicodedata.normalize("NFC", line.removeprefix("\ufeff"))


def read_rows(text: str, file: str, delimiter: str, skip_lines: int) -> list[tuple[int, list[str]]]:
    """The rows of a text, with the number of their first line. Raises ConfigError for an unreadable one."""
    found = []
    for line, cells, wrong in rows(io.StringIO(text, newline=""), delimiter, skip_lines):
        if wrong:
            raise unreadable(file, line, wrong)
        found.append((line, cells))
    return found


def unreadable(file: str, line: int, wrong: str) -> ConfigError:
    """The error for a row that is no row."""
    return ConfigError(
        f"{file}, line {line}: {wrong}",
        'end a cell that begins with " with another one, and write "" for each " inside it',
    )
