"""The session that all of a crawl goes through.

The one rule: it names itself, keeps no cookies, and does not connect to an address that is not
public. The address is looked up once and that one is connected to, so that a name cannot show one
address to the check and another to the connection.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies

import certifi
import requests
from icrawler.utils import ProxyPool, Session
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from depthgen import __version__
from depthgen.errors import DepthgenError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from urllib3 import BaseHTTPResponse

USER_AGENT = f"Mozilla/5.0 (compatible; depthgen/{__version__})"
# NAT64, and the oldest way to write an IPv4 address as an IPv6 one.
_WRAPPINGS = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "::/96")))
_CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


class PrivateAddressError(DepthgenError):
    """A host whose address is private, of this machine, or not of any one host."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to one host in the open internet."""
    ip = ipaddress.ip_address(address.split("%")[0])
    # An IPv4 address in the clothes of an IPv6 one is what it is inside.
    inner = [getattr(ip, "ipv4_mapped", None), getattr(ip, "sixtofour", None)]
    if isinstance(ip, ipaddress.IPv6Address) and any(ip in net for net in _WRAPPINGS):
        inner.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return all(
        each.is_global and not each.is_multicast and not getattr(each, "is_site_local", False)
        for each in (ip, *filter(None, inner))
    )


class _PublicOnly:
    """Looks the host up, refuses it if any of its addresses is not public, and connects to those.

    Overrides urllib3's own hook for making the socket; TLS still checks the name.
    """

    _dns_host: str
    port: int

    def _new_conn(self: Any) -> socket.socket:
        name = self._dns_host
        addresses = self._look_up(name)
        for address in addresses:
            if not is_public(address):
                raise PrivateAddressError(f"{name} is at {address}, which is not public")
        try:
            for at, address in enumerate(addresses, 1):
                self._dns_host = address
                try:
                    return super()._new_conn()  # type: ignore[misc]
                except ConnectTimeoutError:  # NewConnectionError is one
                    if at == len(addresses):
                        raise
        finally:
            self._dns_host = name
        raise NewConnectionError(self, f"{name} has no address")

    def _look_up(self: Any, name: str) -> list[str]:
        try:
            found = socket.getaddrinfo(name, self.port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            reason = error if isinstance(error, socket.gaierror) else socket.gaierror(str(error))
            raise NameResolutionError(self.host, self, reason) from error
        return list(dict.fromkeys(str(each[4][0]) for each in found))


class _PublicHTTPConnection(_PublicOnly, HTTPConnection):
    pass


class _PublicHTTPSConnection(_PublicOnly, HTTPSConnection):
    pass


class _PublicHTTPPool(HTTPConnectionPool):
    ConnectionCls = _PublicHTTPConnection


class _PublicHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _PublicHTTPSConnection


class DirectAdapter(HTTPAdapter):
    """Can be asked without the ceremony of a request: `ask` takes half the time of `Session.get`.

    It goes without what a crawl has no use for: cookies, passwords, hooks, redirects.
    """

    def ask(self, url: str, headers: Mapping[str, Any], timeout_s: float) -> BaseHTTPResponse:
        """The answer to a GET, its body unread. Raises what urllib3 raises."""
        answer: BaseHTTPResponse = self.poolmanager.urlopen(
            "GET",
            url,
            headers=headers,
            redirect=False,
            retries=False,
            preload_content=False,
            timeout=timeout_s,
        )
        return answer

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        where = _certificates()
        options["ca_cert_dir" if Path(where).is_dir() else "ca_certs"] = where
        super().init_poolmanager(*arguments, **options)


class PublicAdapter(DirectAdapter):
    """Connects to public addresses only. A proxy, if the user has set one, is trusted to."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        pools = {"http": _PublicHTTPPool, "https": _PublicHTTPSPool}
        self.poolmanager.pool_classes_by_scheme = pools


def _certificates() -> str:
    return next(filter(None, map(os.environ.get, _CERTIFICATES)), None) or certifi.where()


def ask(session: requests.Session, url: str, timeout_s: float) -> BaseHTTPResponse:
    """The answer to a GET, by the session's adapter for `url`, its body unread.

    Raises what requests or urllib3 raise.
    """
    adapter = session.get_adapter(url)
    if isinstance(adapter, DirectAdapter) and not session.trust_env:
        return adapter.ask(url, session.headers, timeout_s)
    request = session.prepare_request(requests.Request("GET", url))
    assert request.url is not None, "it raises otherwise"
    around: Any = session.merge_environment_settings(request.url, {}, True, None, None)
    answer: BaseHTTPResponse = adapter.send(request, timeout=timeout_s, **around).raw
    return answer


def open_session(threads: int, allow_private: bool) -> requests.Session:
    """A session for `threads` that use it at once. allow_private: connect to any address."""
    session: requests.Session = Session(ProxyPool())
    adapter_class = DirectAdapter if allow_private else PublicAdapter
    for scheme in ("http://", "https://"):
        adapter = adapter_class(pool_connections=4 * threads, pool_maxsize=threads)
        session.mount(scheme, adapter)
    # A picture is not packed any further, and a packed answer can be a bomb.
    session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    # Looking for proxies in the environment, each time, takes as long as a request.
    session.trust_env = bool(getproxies().keys() - {"no"})
    session.verify = _certificates()
    return session
