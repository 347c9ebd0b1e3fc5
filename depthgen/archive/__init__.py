"""The archive: plain ZIP, STORED, nothing private.

`unzip`, `zipfile` and Info-ZIP read what `ArchiveWriter` writes, and `Archive` reads any valid ZIP.
The one rule: the bytes of an archive depend on its members' names and contents alone.
"""

from depthgen.archive.format import ArchiveError, shard_path
from depthgen.archive.lockstep import Entry, Lockstep
from depthgen.archive.reader import Archive
from depthgen.archive.writer import ArchiveWriter

__all__ = ["Archive", "ArchiveError", "ArchiveWriter", "Entry", "Lockstep", "shard_path"]
