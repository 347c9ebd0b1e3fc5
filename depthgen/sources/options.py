"""What can be asked of `crawl`, whichever source it is.

The one rule: options that make no sense together are refused before anything is opened.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from depthgen import images
from depthgen.errors import OptionsError
from depthgen.sources.screen import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from depthgen.workspace import Kind

SEARCHES = ("bing", "google", "baidu", "flickr")
SOURCES = (*SEARCHES, "urls", "folder")
# What the original searched for.
KEYWORDS: Mapping[str, tuple[str, ...]] = {
    "fg": ("people", "animals", "dogs", "cats", "bears", "goats", "deer", "cow", "human"),
    "bg": ("mall interior", "interior", "indoor"),
}
_WEB_BYTES = 32 << 20
_SEARCH_COUNT = 100
_SEARCH_DELAY_S = 0.2
_LEAST_S, _DAY_S = 0.1, 86_400.0
_SEARCH_DEADLINE_S = 1800.0
WORDS: Mapping[str, str] = {"fg": "cut-outs", "bg": "backgrounds"}


@dataclass(frozen=True)
class CrawlOptions:
    """What to take in. Raises `OptionsError` where a value makes no sense.

    source: one of `SOURCES`. kind: "fg" for cut-outs with alpha, "bg" for scenes.
    origin: the folder to take from, or the list of URLs (its column `url_column`).
    keywords: what to search for; those of the original where none is given. license: one of
    `web.search.LICENSES`, or empty. flickr_key: for Flickr's interface.
    count: how many to have, those of earlier runs from the same folder, list or keywords included;
    None is 100 of a search, and all of a folder or list. dedupe: refuse duplicates from a folder,
    too, instead of noting them. min_size: the least smallest side, in pixels. max_pixels,
    max_bytes: of one picture; 32 MiB from the web, 256 MiB from a folder.
    depth_origin: a folder of depth maps with the pictures' stems (bg from a folder): 16-bit grey
    PNG in millimetres, 8-bit grey PNG of depth / 10 m × 255, or `.npy` in metres.

    timeout_s: for one attempt at a picture. retries: after a failure that may pass.
    per_host_delay_s: between requests to one host; 0.2 s for searches, none for lists.
    deadline_s: for the whole run; half an hour for searches, none for lists. threads: downloads at
    a time. allow_private: connect to private addresses, too. ignore_opt_out: take what X-Robots-Tag
    asks not to take.
    """

    source: str = "bing"
    kind: Kind = "bg"
    origin: Path | None = None
    url_column: str = "url"
    keywords: tuple[str, ...] = ()
    license: str = ""
    flickr_key: str = field(default="", repr=False)
    count: int | None = None
    dedupe: bool = False
    min_size: int = 32
    max_pixels: int = images.MAX_PIXELS
    max_bytes: int | None = None
    depth_origin: Path | None = None
    timeout_s: float = 10.0
    retries: int = 2
    per_host_delay_s: float | None = None
    deadline_s: float | None = None
    threads: int = 16
    allow_private: bool = False
    ignore_opt_out: bool = False

    def __post_init__(self) -> None:
        for complaint in _complaints(self):
            raise OptionsError(complaint)

    def settings(self) -> dict[str, object]:
        """What a manifest tells of it, as JSON takes it; the key of a person is not among it."""
        values = {name: value for name, value in vars(self).items() if name != "flickr_key"}
        for name in ("origin", "depth_origin"):
            values[name] = str(values[name]) if values[name] is not None else None
        return values

    @property
    def is_search(self) -> bool:
        return self.source in SEARCHES

    @property
    def searched(self) -> tuple[str, ...]:
        """The keywords of a search."""
        return tuple(dict.fromkeys(self.keywords)) or KEYWORDS[self.kind]

    @property
    def wanted(self) -> int | None:
        return self.count or (_SEARCH_COUNT if self.is_search else None)

    @property
    def limits(self) -> Limits:
        most = images.MAX_BYTES if self.source == "folder" else _WEB_BYTES
        return Limits(self.min_size, self.max_pixels, self.max_bytes or most)

    @property
    def delay_s(self) -> float:
        """Between requests to one host."""
        if self.per_host_delay_s is not None:
            return self.per_host_delay_s
        return _SEARCH_DELAY_S if self.is_search else 0.0

    @property
    def seconds(self) -> float:
        """Until the deadline; infinite where there is none."""
        return self.deadline_s or (_SEARCH_DEADLINE_S if self.is_search else float("inf"))


def _out_of_range(options: CrawlOptions) -> list[tuple[bool, str]]:
    """Numbers that are too small, too large, or none."""
    ranges = (
        ("--count", options.count, 1, 10**9),
        ("--min-size", options.min_size, 1, 10**6),
        ("max_pixels", options.max_pixels, 1, 10**12),
        ("--max-bytes", options.max_bytes, 1, images.MAX_BYTES),
        ("--threads", options.threads, 1, 1000),
        ("--retries", options.retries, 0, 100),
        ("--per-host-delay", options.per_host_delay_s, 0, _DAY_S),
        ("--timeout", options.timeout_s, _LEAST_S, _DAY_S),
        ("--deadline", options.deadline_s, _LEAST_S, 365 * _DAY_S),
    )
    return [
        (
            value is not None and not least <= value <= most,
            f"{name} is {least:,} to {most:,}, not {value}",
        )
        for name, value, least, most in ranges
    ]


def _complaints(options: CrawlOptions) -> list[str]:
    """What makes no sense, a sentence each."""
    source, known = options.source, ", ".join(SOURCES)
    lists = source in ("urls", "folder")
    checks = (
        (source not in SOURCES, f"there is no source {source!r}; use --source {known}"),
        (options.kind not in WORDS, f"kind must be fg or bg, not {options.kind!r}"),
        (
            lists and options.origin is None,
            f"the source {source} needs the {'list' if source == 'urls' else 'folder'} to take "
            f"from: --from {'FILE' if source == 'urls' else 'DIR'}",
        ),
        (
            not lists and options.origin is not None,
            "--from goes with --source folder or --source urls; name one of them",
        ),
        (
            lists and bool(options.keywords or options.license),
            f"the source {source} searches nothing; leave --keyword and --license out, or use "
            f"--source {' or '.join(SEARCHES)}",
        ),
        ("" in map(str.strip, options.keywords), "a keyword is empty; type --keyword WORD"),
        (
            any("\ud800" <= each <= "\udfff" for word in options.keywords for each in word),
            "a keyword is not valid UTF-8; type it in a terminal that writes UTF-8",
        ),
        (
            source == "flickr" and not options.flickr_key,
            "Flickr wants a key of yours: give it with --flickr-key or $FLICKR_API_KEY "
            "(www.flickr.com/services/apps/create)",
        ),
        (
            options.depth_origin is not None and options.kind != "bg",
            "depth maps belong to backgrounds; use them with --kind bg",
        ),
        (
            options.depth_origin is not None and source != "folder",
            "depth maps come from a folder; use them with --source folder",
        ),
        (
            options.url_column != "url" and source != "urls",
            "--url-column goes with --source urls",
        ),
        *_out_of_range(options),
    )
    return [complaint for wrong, complaint in checks if wrong]
