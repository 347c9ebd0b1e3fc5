"""Finding members by name: 10 to 12 bytes a member, no name kept.

A name's number is its bytes read as one little-endian integer, modulo a prime: that takes one call
for a single name, and a few array operations for all names of a directory together. The one rule:
this gives candidates; whoever asks compares the names themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Below 2**32, so that a remainder and four more bytes fit 64 bits; and 2**32 leaves a large
# remainder, so that names which differ in a digit here and there do not meet.
_PRIME = 4_000_000_007
_BLOCK_ENTRIES = 1 << 13
_ENTRY_BYTES = 46
_NAME_LENGTH_AT = 28


def hash_names(raw: NDArray[np.uint8], entries: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """(n,) the number of each entry's name in the central directory `raw`, below 2**32."""
    hashes = np.empty(len(entries), np.uint64)
    for start in range(0, len(entries), _BLOCK_ENTRIES):
        block = entries[start : start + _BLOCK_ENTRIES].astype(np.int64)
        lengths = raw[block + _NAME_LENGTH_AT].astype(np.int64)
        lengths |= raw[block + _NAME_LENGTH_AT + 1].astype(np.int64) << 8
        names = block + _ENTRY_BYTES
        for length in np.unique(lengths):
            same = lengths == length
            hashes[start : start + len(block)][same] = _hash_equal_lengths(
                raw, names[same], int(length)
            )
    return hashes


def _hash_equal_lengths(
    raw: NDArray[np.uint8], names: NDArray[np.int64], length: int
) -> NDArray[np.uint64]:
    """Horner's rule from the last byte to the first, four bytes at a time where there are four."""
    # All four-byte words of `raw`, overlapping: one at each byte.
    words = np.ndarray((len(raw) - 3,), np.dtype("<u4"), raw.data, strides=(1,))
    hashes = np.zeros(len(names), np.uint64)
    whole = length - length % 4
    for place in range(length - 1, whole - 1, -1):
        hashes = (hashes << np.uint64(8)) | raw[names + place]
    prime = np.uint64(_PRIME)
    for place in range(whole - 4, -1, -4):
        hashes = (hashes << np.uint64(32)) | words[names + place]
        hashes -= hashes // prime * prime  # half the time of %
    return hashes


class NameIndex:
    """A hash table of members over two arrays: buckets, and the members sorted by hash."""

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        bits = max(1, len(hashes).bit_length() - 1)
        self._shift = 32 - bits
        keys = np.empty(len(hashes) + 1, np.uint64)
        keys[:-1] = hashes
        keys[:-1] <<= np.uint64(32)
        keys[:-1] |= np.arange(len(hashes), dtype=np.uint32)
        keys[-1] = 2**64 - 1  # where every search ends
        keys.sort()
        starts = np.empty(1 << bits, np.uint32)
        for bucket in range(0, 1 << bits, _BLOCK_ENTRIES):
            firsts = np.arange(bucket, min(bucket + _BLOCK_ENTRIES, 1 << bits), dtype=np.uint64)
            firsts <<= np.uint64(32 + self._shift)
            starts[bucket : bucket + _BLOCK_ENTRIES] = np.searchsorted(keys, firsts)
        # A memoryview gives single elements as Python integers, twice as fast as NumPy does.
        self._keys: memoryview[int] = memoryview(keys)  # type: ignore[arg-type]
        self._starts: memoryview[int] = memoryview(starts)  # type: ignore[arg-type]

    def candidates(self, raw: bytes) -> list[int]:
        """The members whose name may be `raw`; nearly always just the one, or none."""
        wanted = int.from_bytes(raw, "little") % _PRIME
        at = self._starts[wanted >> self._shift]
        keys = self._keys
        wanted <<= 32
        key = keys[at]
        while key < wanted:
            at += 1
            key = keys[at]
        found = []
        beyond = wanted + (1 << 32)
        while key < beyond:
            found.append(key - wanted)
            at += 1
            key = keys[at]
        return found

    def ambiguous(self) -> list[int]:
        """All members that share their hash with another one: two of one name are among them."""
        keys = np.frombuffer(self._keys, np.uint64)[:-1]
        hashes = keys >> np.uint64(32)
        shared = np.zeros(len(keys), bool)
        equal = hashes[1:] == hashes[:-1]
        shared[1:] |= equal
        shared[:-1] |= equal
        members: list[int] = (keys[shared] & np.uint64(0xFFFFFFFF)).tolist()
        return members
