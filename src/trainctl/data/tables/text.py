"""From a file's bytes to rows of cells: encoding, delimiter, lines."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice

from trainctl.errors import ConfigError

MARKS = (
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
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x19\x1b-\x1f]")  # 0x1a ends files that come from DOS
_DELIMITERS = {"tab": "\t", "semicolon": ";", "pipe": "|", "comma": ",", "space": " "}
_SAMPLE_ROWS = 200


def decode(raw: bytes, file: str, encoding: str) -> tuple[str, str]:
    """The text of a file, and the encoding by which it was read.

    ``auto`` is what a byte order mark says, else UTF-8, else cp1252 (which nearly any bytes could be).
    Raises ConfigError for what is not text, an unknown encoding, and bytes that the encoding does not have.
    """
    if encoding != "auto":
        return _decode_as(raw, file, encoding), encoding
    marked = next((name for mark, name in MARKS if raw.startswith(mark)), None)
    if marked:
        return _decode_as(raw, file, marked), marked
    for mark, (what, remedy) in _NOT_TEXT.items():
        if raw.startswith(mark):
            raise ConfigError(f"{file} is {what}, not text", remedy)
    for guess in ("utf-8", "cp1252"):
        try:
            text = raw.decode(guess)
        except UnicodeDecodeError:
            continue
        if not _CONTROL.search(text):
            return text, guess
    raise ConfigError(
        f"{file} is not text: it holds bytes that no text has",
        "a table is a text file; if it is one in a rare encoding, name it: dataset.encoding=utf-16-le",
    )


def _decode_as(raw: bytes, file: str, encoding: str) -> str:
    try:
        return raw.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{file}, line {line}: byte 0x{raw[error.start]:02x} is not {encoding} ({error.reason})",
            "name the right encoding, or let it be found: dataset.encoding=auto",
        ) from error
    except (LookupError, ValueError) as error:
        raise ConfigError(
            f"dataset.encoding={encoding}: Python has no such text encoding",
            "such as utf-8, utf-16, cp1252, latin-1, shift_jis; or auto",
        ) from error


def choose_delimiter(text: str, file: str, delimiter: str, skip_lines: int) -> str:
    """The character between two cells: a given one, by itself or by name, or the one that fits the lines.

    The one that fits gives the same number of cells, two or more, in most of the first lines. csv.Sniffer
    compares lines character by character: it finds nothing in a table of 31 columns under a title line, and
    takes a decimal comma for the delimiter.

    Raises ConfigError when there is none.
    """
    if delimiter != "auto":
        named = _DELIMITERS.get(delimiter, "\t" if delimiter == "\\t" else delimiter)
        if len(named) != 1 or named in '\r\n"':
            raise ConfigError(
                f"dataset.delimiter={delimiter}: must be one character",
                f"or a word: auto, {', '.join(_DELIMITERS)}",
            )
        return named
    best, best_share = "", 0.0
    for candidate in _DELIMITERS.values():
        sample = []
        # Up to a quoted cell that does not end: whoever reads the rows will say where that is.
        with contextlib.suppress(ConfigError):
            for _, cells in islice(rows(text, file, candidate, skip_lines), _SAMPLE_ROWS):
                sample.append(len(cells))
        width, count = Counter(sample).most_common(1)[0] if sample else (0, 0)
        # Ties go to the first: who separates by semicolons may well write decimal commas.
        if width > 1 and count / len(sample) > best_share:
            best, best_share = candidate, count / len(sample)
    if not best:
        raise ConfigError(
            f"{file} has no columns: neither {', '.join(_DELIMITERS)} separates cells in its lines",
            "a table needs an input and a target; name another character with dataset.delimiter=",
        )
    return best


def delimiter_name(delimiter: str) -> str:
    return next((name for name, character in _DELIMITERS.items() if character == delimiter), delimiter)


def rows(text: str, file: str, delimiter: str, skip_lines: int = 0) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank: the number of the line on which it begins, from 1, and its stripped cells.

    Raises ConfigError where a quoted cell does not end as it should.
    """
    lines: Iterator[str] = io.StringIO(text.replace("\x1a", ""), newline="")
    if delimiter == " ":
        # Columns that are lined up by spaces: one or many of them are one delimiter.
        lines = (f"{line.strip()}\n" for line in lines)
    lines = islice(lines, skip_lines, None)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    while True:
        begins = skip_lines + reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ConfigError(
                f"{file}, line {begins}: the row cannot be read: {error}",
                'a cell that begins with " must end with one, and hold "" for each " of its own',
            ) from error
        if cells is None:
            return
        cells = [cell.strip() for cell in cells]
        if any(cells):
            yield begins, cells


__all__ = ["MARKS", "choose_delimiter", "decode", "delimiter_name", "rows"]
