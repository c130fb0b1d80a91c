"""How a text table is written: what stands between its columns, its decimal mark, and its encoding, recognised where it is not said."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow.csv
import pyarrow.dataset

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_BOMS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_SAMPLE = 1 << 18  # bytes from which delimiter and decimal mark are recognised
_BLOCK = 1 << 20
_WITH_COMMA = re.compile(r"\s*[+-]?\d+,\d+(e[+-]?\d+)?\s*", re.IGNORECASE)
_WITH_POINT = re.compile(r"\s*[+-]?\d*\.\d+(e[+-]?\d+)?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Dialect:
    """delimiter: a character of DELIMITERS. decimal: a point or a comma. encoding: a name that Python knows."""

    delimiter: str = ","
    decimal: str = "."
    encoding: str = "utf-8"

    @property
    def usual(self) -> bool:
        """Whether it is that of most files: commas, points, UTF-8."""
        return self == Dialect()

    def __str__(self) -> str:
        mark = "a decimal comma" if self.decimal == "," else "a decimal point"
        return f"{DELIMITERS.get(self.delimiter, repr(self.delimiter))} between columns, {mark}, {self.encoding}"

    def format(self) -> pyarrow.dataset.CsvFileFormat:
        """As pyarrow reads it: an empty field, NA or NaN is a missing value, also in text columns, and a quoted field may have several
        lines."""
        return pyarrow.dataset.CsvFileFormat(
            parse_options=pyarrow.csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True, decimal_point=self.decimal),
            read_options=pyarrow.csv.ReadOptions(encoding="utf8" if self.encoding == "utf-8" else self.encoding),
        )


def recognised(path: Path, delimiter: str | None = None, decimal: str | None = None, encoding: str | None = None) -> Dialect:
    """The dialect of a text file, plain or by gzip. What is given is taken as it is. Raises OSError, UnicodeDecodeError."""
    encoding = encoding or _encoding(path)
    with _opened(path) as file:
        raw = file.read(_SAMPLE)
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)()
    text = decoder.decode(raw, final=len(raw) < _SAMPLE)
    whole = text if len(raw) < _SAMPLE else text[: max(text.rfind("\n"), 0) + 1] or text  # the last line may be cut
    delimiter = delimiter or _delimiter(whole, "\t" if ".tsv" in path.suffixes else ",")
    return Dialect(delimiter, decimal or _decimal(whole, delimiter), encoding)


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


def _encoding(path: Path) -> str:
    """By its byte order mark; UTF-16 without one where every other byte is 0; UTF-8 if all of it is that; else Windows' cp1252."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with _opened(path) as file:
        block = file.read(_BLOCK)
        for mark, name in _BOMS.items():
            if block.startswith(mark):
                return name
        for start, name in ((0, "utf-16-be"), (1, "utf-16-le")):
            if len(block) >= 4 and block[start::2].count(0) > len(block) // 4 and not block[1 - start :: 2].count(0):
                return name
        try:
            while block:
                decoder.decode(block)
                block = file.read(_BLOCK)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8"


def _delimiter(text: str, usual: str) -> str:
    """The one by which most rows have as many fields as the header, and more than one; of several the one with the most fields."""
    best, chosen = (0.0, 0), usual
    for delimiter in (usual, *(one for one in DELIMITERS if one != usual)):
        lengths = [len(row) for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
        if not lengths or lengths[0] < 2:
            continue
        score = Counter(lengths)[lengths[0]] / len(lengths), lengths[0]
        if score > best:
            best, chosen = score, delimiter
    return chosen


def _decimal(text: str, delimiter: str) -> str:
    """A comma where fields are numbers with one and none with a point; a point else."""
    if delimiter == ",":
        return "."
    fields = [field for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) for field in row]
    commas = any(_WITH_COMMA.fullmatch(field) for field in fields)
    return "," if commas and not any(_WITH_POINT.fullmatch(field) for field in fields) else "."
