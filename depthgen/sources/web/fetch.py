"""One address → its bytes, or the reason why not.

The one rule: whatever a server does, fetching ends: redirects are counted and each is looked at,
bytes and seconds are limited, and every way to fail has its reason from `screen.REASONS`.
"""

from __future__ import annotations

import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import requests
from urllib3.exceptions import (
    HTTPError,
    InvalidHeader,
    NewConnectionError,
    ProtocolError,
    SSLError,
    TimeoutError,
)
from urllib3.util import Retry

from depthgen.sources import screen
from depthgen.sources.web.session import PrivateAddressError, ask, is_public

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from urllib3 import BaseHTTPResponse

_MAX_REDIRECTS = 5
_CHUNK = 1 << 16
_BACKOFF_S = 0.5
_LONGEST_WAIT_S = 30.0
# Statuses below 500 that say "not now" rather than "no".
_NOT_NOW = (408, 425, 429)
_DIRECTIVES_WITH_VALUES = (
    "unavailable_after",
    "max-snippet",
    "max-image-preview",
    "max-video-preview",
)
_OPT_OUTS = frozenset(("noai", "noimageai", "noindex", "noimageindex", "none"))


@dataclass(frozen=True)
class Rules:
    """How far to go for one address.

    timeout_s: for one attempt, from the first byte sent to the last one read. retries: further
    attempts after a failure that may pass. ignore_opt_out: take what its server asks not to take.
    """

    timeout_s: float = 10.0
    max_bytes: int = 32 << 20
    retries: int = 2
    allow_private: bool = False
    ignore_opt_out: bool = False


@dataclass(frozen=True)
class Fetched:
    data: bytes
    http_status: int


class FetchError(Exception):
    """Why an address gave no bytes. reason: from `screen.REASONS`. nbytes: as far as known.

    wait_s: how long the server asks to wait before another attempt, None where it does not say.
    """

    def __init__(
        self,
        reason: str,
        http_status: int | None = None,
        nbytes: int = 0,
        wait_s: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason, self.http_status, self.nbytes = reason, http_status, nbytes
        self.wait_s = wait_s

    @property
    def passing(self) -> bool:
        """Whether it may go well another time."""
        return self.reason in screen.PASSING


class HostDelays:
    """Keeps requests to one host at least `delay_s` apart, over all threads."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._next: dict[str, float] = {}
        self._lock = threading.Lock()

    def wait(self, host: str, stop: threading.Event) -> bool:
        """Whether it was worth the wait: False if nothing more is wanted."""
        if not self._delay_s:
            return not stop.is_set()
        with self._lock:
            now = time.monotonic()
            at = max(now, self._next.get(host, 0.0))
            self._next[host] = at + self._delay_s
        return not stop.wait(at - now)


class Fetcher:
    """Fetches one address after the other; any number of threads may share it.

    stop: set when nothing more is wanted, so that no one waits for another attempt. `attempts`:
    when each thread, by its identifier, began the attempt that it is at.
    """

    def __init__(
        self, session: requests.Session, rules: Rules, hosts: HostDelays, stop: threading.Event
    ) -> None:
        self._session, self.rules, self._hosts, self._stop = session, rules, hosts, stop
        self.attempts: dict[int, float] = {}

    def __call__(self, url: str) -> Fetched:
        """The bytes at `url`. Raises `FetchError`."""
        for attempt in range(self.rules.retries + 1):
            try:
                return self._once(url)
            except FetchError as error:
                wait_s = error.wait_s
                if wait_s is None:
                    wait_s = min(_BACKOFF_S * 2.0 ** min(attempt, 30), _LONGEST_WAIT_S)
                last = attempt == self.rules.retries or wait_s > _LONGEST_WAIT_S
                if not error.passing or last or self._stop.wait(wait_s):
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _once(self, url: str) -> Fetched:
        thread = threading.get_ident()
        try:
            return self._follow(url, thread)
        finally:
            self.attempts.pop(thread, None)

    def _follow(self, url: str, thread: int) -> Fetched:
        """Go where it leads, for `timeout_s` altogether, waits for the hosts' sake not counted."""
        until = time.monotonic() + self.rules.timeout_s
        for _ in range(_MAX_REDIRECTS + 1):
            host = self._check(url)
            self.attempts.pop(thread, None)
            asked = time.monotonic()
            if not self._hosts.wait(host, self._stop):
                raise FetchError(screen.TIMED_OUT)
            until += time.monotonic() - asked
            self.attempts[thread] = until - self.rules.timeout_s
            try:
                left = until - time.monotonic()
                if left <= 0:
                    raise FetchError(screen.TIMED_OUT)
                with closing(ask(self._session, url, left)) as answer:
                    target = _redirect(answer)
                    if not target:
                        self._refuse(answer)
                        return Fetched(self._read(answer, until), answer.status)
                    url = urljoin(url, target)
            except _FAILURES as error:
                raise FetchError(_reason_of(error)) from error
        raise FetchError(screen.REDIRECTS)

    def _check(self, url: str) -> str:
        """The host of an address that may be asked. Raises `FetchError`."""
        try:
            parts = urlsplit(url)
            host, netloc = parts.hostname, parts.netloc
        except ValueError as error:
            raise FetchError(screen.NO_ADDRESS) from error
        if parts.scheme not in ("http", "https") or not host:
            raise FetchError(screen.NO_ADDRESS)
        if not self.rules.allow_private and _names_private(host):
            raise FetchError(screen.PRIVATE)
        return netloc

    def _refuse(self, answer: BaseHTTPResponse) -> None:
        """Raise `FetchError` for an answer that is not to be read."""
        status = answer.status
        if status >= 500 or status in _NOT_NOW:
            raise FetchError(screen.SERVER_ERROR, status, wait_s=_wait_of(answer))
        if not 200 <= status < 300:
            raise FetchError(screen.HTTP_REFUSED, status)
        if not self.rules.ignore_opt_out and opts_out(answer.headers.getlist("X-Robots-Tag")):
            raise FetchError(screen.OPTED_OUT, status)

    def _read(self, answer: BaseHTTPResponse, until: float) -> bytes:
        status = answer.status
        length = answer.headers.get("Content-Length", "")
        announced = int(length) if length.isdecimal() and len(length) < 20 else 0
        if announced > self.rules.max_bytes:
            raise FetchError(screen.TOO_LARGE, status, announced)
        body = bytearray()
        for chunk in _chunks(answer):
            body += chunk
            if len(body) > self.rules.max_bytes:
                raise FetchError(screen.TOO_LARGE, status, max(announced, len(body)))
            if time.monotonic() > until:
                raise FetchError(screen.TIMED_OUT, status, len(body))
        return bytes(body)


def _redirect(answer: BaseHTTPResponse) -> str:
    """Where an answer sends us, else nothing."""
    target = answer.get_redirect_location() or ""
    with suppress(UnicodeError):  # HTTP's headers are Latin-1, but many servers write UTF-8
        return target.encode("latin-1").decode()
    return target


def _chunks(answer: BaseHTTPResponse) -> Iterator[bytes]:
    """What comes, as it comes: to wait for a full chunk would let a slow server go on forever."""
    while chunk := answer.read1(_CHUNK, decode_content=True):
        yield chunk


_FAILURES = (requests.RequestException, HTTPError, PrivateAddressError, ValueError)


def _reason_of(error: Exception) -> str:
    """Which of the fixed reasons an exception of the network libraries stands for."""
    if isinstance(error, PrivateAddressError):
        return screen.PRIVATE
    if isinstance(error, NewConnectionError):
        return screen.NO_CONNECTION
    if isinstance(error, requests.Timeout | TimeoutError):
        return screen.TIMED_OUT
    if isinstance(error, requests.ConnectionError):
        cause = error.args[0] if error.args else None
        return screen.BROKEN_OFF if isinstance(cause, ProtocolError) else screen.NO_CONNECTION
    if isinstance(error, SSLError):
        return screen.NO_CONNECTION
    if isinstance(error, InvalidHeader | requests.exceptions.InvalidHeader):
        return screen.BROKEN_OFF
    if isinstance(error, ValueError):  # among them all kinds of malformed addresses
        return screen.NO_ADDRESS
    return screen.BROKEN_OFF


def _names_private(host: str) -> bool:
    """Whether the name itself says it; names that must be looked up are the session's to check."""
    host = host.removesuffix(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not is_public(host)
    except ValueError:
        return False


def _wait_of(answer: BaseHTTPResponse) -> float | None:
    value = answer.headers.get("Retry-After")
    if value is None:
        return None
    try:
        return Retry().parse_retry_after(value)
    except (HTTPError, ValueError, OverflowError):
        return None


def opts_out(values: Iterable[str]) -> bool:
    """Whether X-Robots-Tag headers ask not to be taken, by one of `_OPT_OUTS`.

    values: one a header. What follows a name and a colon in a header is for that crawler alone.
    """
    for value in values:
        for_us = True
        for part in value.lower().split(","):
            name, colon, directive = (each.strip() for each in part.partition(":"))
            # A date has colons and commas, too, but it has spaces.
            if name in _DIRECTIVES_WITH_VALUES or (colon and " " in name):
                continue
            if colon:
                for_us = name == "depthgen"
            if for_us and (directive if colon else name) in _OPT_OUTS:
                return True
    return False
