"""Which pictures are alike, and so must stay on one side of a split.

The one rule: what cannot be told is not guessed: pictures are alike if their bytes are equal, or if
the record of where they came from says that one is a copy of the other or looks the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from depthgen.workspace import parse_picture
from vathos.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from depthgen.archive import Archive
    from depthgen.workspace import Kind

__all__ = ["byte_equal", "linked", "picture_positions"]

log = logging.getLogger(__name__)


def picture_positions(archive: Archive, kind: Kind) -> dict[int, int]:
    """The position in the archive of each picture of a kind, by its number.

    Raises `DataError` if two members have one number.
    """
    positions: dict[int, int] = {}
    for position, name in enumerate(archive.names):
        parsed = parse_picture(name)
        if parsed is None or parsed[0] != kind:
            continue
        if parsed[1] in positions:
            raise DataError(
                f"{archive.paths[0]} has two members for {kind} {parsed[1]}, {name} and "
                f"{archive.name(positions[parsed[1]])}; make the archive again"
            )
        positions[parsed[1]] = position
    return positions


def byte_equal(archive: Archive, positions: Mapping[int, int]) -> list[list[int]]:
    """The numbers of pictures that are the same, byte for byte; only groups of two and more."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for number, position in positions.items():
        groups[hashlib.sha256(archive[position]).digest()].append(number)
    return [sorted(group) for group in groups.values() if len(group) > 1]


def linked(provenance: Path, kind: Kind) -> list[list[int]]:
    """Pairs of numbers that `sources.jsonl` links by `duplicate_of`; none if there is no file.

    Of several lines for one picture the last holds. A line that cannot be read, such as one that
    a kill cut short, is left out with a warning. Raises `DataError` if the file cannot be read.
    """
    try:
        lines = provenance.read_bytes().split(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(
            f"cannot read {provenance} ({error.strerror}), which says what pictures are copies"
        ) from error
    partners: dict[int, int | None] = {}
    damaged = 0
    for line in filter(bytes.strip, lines):
        values = _parse(line)
        damaged += not values
        number = _number(values.get("file"), kind)
        if number is not None:
            partners[number] = _number(values.get("duplicate_of"), kind)
    if damaged:
        log.warning(
            "%s has %d lines that cannot be read; what they link may be on two sides of a split",
            provenance,
            damaged,
        )
    return [[number, other] for number, other in partners.items() if other is not None]


def _parse(line: bytes) -> dict[str, Any]:
    """The line's object; an empty one if it is none."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _number(file: object, kind: Kind) -> int | None:
    """7 from "bg/bg_007.jpg" if that is of this kind."""
    parsed = parse_picture(file) if isinstance(file, str) else None
    return parsed[1] if parsed is not None and parsed[0] == kind else None
