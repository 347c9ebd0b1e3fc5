"""Where every picture came from: `sources.jsonl`, one line of JSON a picture or URL seen.

The one rule: lines are only ever added, and synced to the disk before anything else is done; a
line torn by a kill is dropped by the next reader and cut off by the next writer. Where a
picture has several lines, for it was tried again, the last one holds.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from depthgen.closing import Closing
from depthgen.errors import StageError

if TYPE_CHECKING:
    from pathlib import Path

    from depthgen.workspace import Kind


@dataclass(frozen=True)
class Sighting:
    """One picture that a source offered, and what became of it.

    source: `folder`, `bing`, …  origin: its absolute path, or its URL. name: what to call it.
    time: UTC, ISO 8601. sha256: hex, of the file's bytes; empty where they were not read.
    width, height: pixels as shown, 0 where unknown. verdict: `failed` is a refusal for a reason
    that may pass. reason: why it was not kept, else empty. file: the copy, relative to the folder
    of this file; duplicate_of: an earlier copy of the same bytes, or one that looks the same.
    phash: the perceptual hash of what was let in. page_url, title, keyword, license: the page it
    was found on, its title there, what was searched for, and with which licence filter.
    http_status: of the last answer. depth_origin, depth_file: the depth map that came with it;
    depth_problem: why that was left out.
    """

    kind: Kind
    source: str
    origin: str
    name: str
    time: str
    sha256: str
    width: int
    height: int
    bytes: int
    verdict: Literal["kept", "refused", "failed"]
    reason: str = ""
    file: str = ""
    duplicate_of: str = ""
    phash: str = ""
    page_url: str = ""
    title: str = ""
    keyword: str = ""
    license: str = ""
    http_status: int | None = None
    depth_origin: str = ""
    depth_file: str = ""
    depth_problem: str = ""


def read_provenance(path: Path) -> list[Sighting]:
    """Every whole line of `path`, none if there is no such file.

    Keys of other sources are ignored. Raises `StageError` naming the line that is damaged.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StageError(f"cannot read {path}: {error.strerror}") from error
    # What follows the last newline is empty, or a line whose writing was cut short.
    return [_parse(line, f"{path}, line {at}") for at, line in enumerate(lines[:-1], 1) if line]


def _parse(line: bytes, where: str) -> Sighting:
    known = {field.name for field in fields(Sighting)}
    try:
        values = json.loads(line)
        return Sighting(**{key: value for key, value in values.items() if key in known})
    except (ValueError, TypeError, AttributeError) as error:
        raise StageError(f"{where} is not provenance ({error}); mend it or move it away") from error


class ProvenanceWriter(Closing):
    """Adds lines to `path`, after cutting off a torn last one. Raises `StageError`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0
            self._stream = path.open("ab")
            self._stream.truncate(whole)
        except OSError as error:
            raise StageError(f"cannot write {path}: {error.strerror}") from error

    def add(self, *sightings: Sighting) -> None:
        """Append a line for each and sync them. Fields without a value are left out."""
        if not sightings:
            return
        try:
            self._stream.write(b"".join(map(_line, sightings)))
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise StageError(f"cannot write {self._path}: {error.strerror}") from error

    def close(self) -> None:
        self._stream.close()


def _line(sighting: Sighting) -> bytes:
    values = {key: value for key, value in vars(sighting).items() if value not in ("", None)}
    values.setdefault("sha256", "")
    # Escaped: a file name need not be valid UTF-8.
    return json.dumps(values).encode("ascii") + b"\n"
