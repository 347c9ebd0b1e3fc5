"""The archive: plain ZIP, STORED, nothing private.

`unzip`, `zipfile` and Info-ZIP read what `ArchiveWriter` writes, and `Archive` reads any valid ZIP.
The one rule: the bytes of an archive depend on its members' names and contents alone.
"""

from depthgen.archive.block import Block, Entry
from depthgen.archive.format import ArchiveError, shard_path
from depthgen.archive.lockstep import Lockstep
from depthgen.archive.reader import Archive, files_of
from depthgen.archive.writer import ArchiveWriter, partial_path

__all__ = [
    "Archive",
    "ArchiveError",
    "ArchiveWriter",
    "Block",
    "Entry",
    "Lockstep",
    "files_of",
    "partial_path",
    "shard_path",
]
