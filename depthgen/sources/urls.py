"""The source `urls`: lists of addresses, as users of img2dataset have them.

The one rule: a list is read whole and in order before anything is fetched, so that a list that is
broken is found at once; what stands in it for an address is handed on as it is, for the fetcher to
judge.
"""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import json
import zlib
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO, cast

from depthgen.errors import StageError
from depthgen.sources.web.search import Found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from typing import Any, TextIO

    # The names of a row's columns, and what stands in them.
    Row = tuple[tuple[str, ...], Sequence[object]]

_DELIMITERS = (",", "\t", ";")
_PAGE_COLUMNS = ("page_url", "page", "source_page")
_TITLE_COLUMNS = ("title", "caption", "text", "alt")


def read_urls(path: Path, column: str = "url") -> list[Found]:
    """The addresses in a list: `.txt`, `.csv`, `.tsv`, `.jsonl`, `.ndjson`, `.json`, `.parquet`.

    All but parquet may be packed with gzip (`.csv.gz`). column: where the addresses stand, in upper
    or lower case; a table whose first row holds one address needs no header. Columns named
    `page_url`, `page` or `source_page`, and `title`, `caption`, `text` or `alt`, come along. Rows
    without an address are skipped, and so is an address that stood before.

    Raises `StageError` for a list that cannot be read or holds no address.
    """
    if path.is_dir():
        raise StageError(f"{path} is a folder; name the list of URLs itself with --from")
    name = path.name.lower()
    try:
        if name.endswith(".parquet"):
            return _collect(_parquet_rows(path, column), path, column)
        read = _READERS.get("." + name.removesuffix(".gz").rpartition(".")[2])
        if read is None:
            raise StageError(
                f"{path} has no ending that tells what it is: a list of URLs is "
                f"{', '.join(_READERS)} (each also with .gz) or .parquet"
            )
        with _open(path) as stream:
            # A byte order mark, as Excel writes it, is not part of the first column's name.
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
            return _collect(read(text, str(path), column), path, column)
    except FileNotFoundError as error:
        raise StageError(f"there is no {path}; name a list of URLs with --from") from error
    except UnicodeDecodeError as error:
        where = f"{path}, line {_first_undecodable(path)}"
        raise StageError(f"{where} is not UTF-8; save the list with that encoding") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise StageError(f"{path} is cut off or no gzip file; get it again") from error
    except OSError as error:
        raise StageError(f"cannot read {path}: {error.strerror}") from error


def _open(path: Path) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        return cast("BinaryIO", gzip.open(path))
    return path.open("rb")


def _first_undecodable(path: Path) -> int:
    """The number of the first line that is not UTF-8, from 1; there has to be one."""
    number = 1
    with _open(path) as stream:
        for line in stream:
            try:
                line.decode()
            except UnicodeDecodeError:
                break
            number += 1
    return number


@dataclass(frozen=True)
class _Layout:
    """Where in a row its address, page and title stand; None where it has no such column."""

    url: int | None
    page: int | None
    title: int | None


def _layout(names: tuple[str, ...], column: str) -> _Layout:
    folded = [name.strip().casefold() for name in names]

    def first(wanted: Sequence[str]) -> int | None:
        return next((folded.index(each) for each in wanted if each in folded), None)

    return _Layout(first([column.strip().casefold()]), first(_PAGE_COLUMNS), first(_TITLE_COLUMNS))


def _collect(rows: Iterator[Row], path: Path, column: str) -> list[Found]:
    found: dict[str, Found] = {}
    layouts: dict[tuple[str, ...], _Layout] = {}
    for names, values in rows:
        layout = layouts.get(names)
        if layout is None:
            layout = layouts[names] = _layout(names, column)
        url = _cell(values, layout.url)
        if url and url not in found:
            found[url] = Found(url, _cell(values, layout.page), _cell(values, layout.title))
    if not found and layouts and all(each.url is None for each in layouts.values()):
        there = ", ".join(repr(name) for name in next(iter(layouts)))
        raise StageError(
            f"{path} has no column {column!r} but {there}; name the one with --url-column NAME"
        )
    if not found:
        raise StageError(f"{path} holds no URL; name another list with --from")
    return list(found.values())


def _cell(values: Sequence[object], at: int | None) -> str:
    if at is None or at >= len(values) or values[at] is None:
        return ""
    return str(values[at]).strip()


def _plain_rows(text: TextIO, where: str, column: str) -> Iterator[Row]:
    """One address a line; a line that begins with `#` is a remark."""
    names = (column,)
    for line in text:
        if not line.lstrip().startswith("#"):
            yield names, (line,)


def _separated_rows(text: TextIO, where: str, column: str) -> Iterator[Row]:
    """Cells apart by commas, semicolons or tabs, whichever the first line has most of."""
    head = next((line for line in text if line.strip()), "")
    delimiter = max(_DELIMITERS, key=head.count)
    return _table_rows(csv.reader(chain((head,), text), delimiter=delimiter), where, column)


def _table_rows(reader: Any, where: str, column: str) -> Iterator[Row]:
    try:
        first: list[str] = next((row for row in reader if row), [])
        addresses = [_is_address(cell) for cell in first]
        if addresses.count(True) > 1:
            raise StageError(
                f"{where} begins with {addresses.count(True)} URLs in a row; put a line with the "
                "columns' names above, and name the one to take with --url-column NAME"
            )
        if any(addresses):
            names = tuple(column if is_address else "" for is_address in addresses)
            yield names, first
        else:
            names = tuple(first)
        for row in reader:
            yield names, row
    except csv.Error as error:
        # It counts the lines that it has read: those of a quote that never ends, too.
        message = f"{where} is broken at line {reader.line_num} or above: {error}; mend its quotes"
        raise StageError(message) from error


def _is_address(cell: str) -> bool:
    return cell.strip().lower().startswith(("http://", "https://"))


def _json_line_rows(text: TextIO, where: str, column: str) -> Iterator[Row]:
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            message = f"{where}, line {number} is not JSON ({error}); mend it or leave it out"
            raise StageError(message) from error
        yield _json_row(value, f"{where}, line {number}", column)


def _json_rows(text: TextIO, where: str, column: str) -> Iterator[Row]:
    try:
        values = json.load(text)
    except (json.JSONDecodeError, RecursionError) as error:
        advice = "a list with one object a line is named .jsonl"
        raise StageError(f"{where} is not JSON ({error}); {advice}") from error
    if not isinstance(values, list):
        raise StageError(f"{where} holds no list; write [{{{json.dumps(column)}: …}}, …]")
    for number, value in enumerate(values, 1):
        yield _json_row(value, f"{where}, entry {number}", column)


def _json_row(value: object, where: str, column: str) -> Row:
    if isinstance(value, str):
        return (column,), (value,)
    if isinstance(value, dict):
        return tuple(value), tuple(value.values())
    raise StageError(f"{where} is neither an object nor a string; mend it or leave it out")


def _parquet_rows(path: Path, column: str) -> Iterator[Row]:
    try:
        arrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise StageError(f"{path} needs pyarrow to be read; pip install pyarrow") from error
    try:
        with parquet.ParquetFile(path) as file:
            names = tuple(file.schema_arrow.names)
            places = vars(_layout(names, column)).values()
            wanted = tuple(names[at] for at in places if at is not None)
            # Of what lacks the column, the names alone are told.
            yield names, ()
            for batch in file.iter_batches(columns=list(wanted)):
                columns = [batch.column(name).to_pylist() for name in wanted]
                for values in zip(*columns, strict=True):
                    yield wanted, values
    except arrow.ArrowException as error:
        raise StageError(
            f"{path} is no parquet file, or damaged ({error}); get it again"
        ) from error


_READERS: dict[str, Callable[[TextIO, str, str], Iterator[Row]]] = {
    ".txt": _plain_rows,
    ".csv": _separated_rows,
    ".tsv": _separated_rows,
    ".jsonl": _json_line_rows,
    ".ndjson": _json_line_rows,
    ".json": _json_rows,
}
