"""Crawling from a hostile web."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from depthgen.sources.web import crawler, fetch, session
from depthgen.workspace import Workspace
from tests.depthgen.sources.web.hostile import BING, PICTURE_HOST, HostileWeb

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import requests


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "W")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a fetch that failed tried again almost at once."""
    monkeypatch.setattr(fetch, "_BACKOFF_S", 0.01)


@pytest.fixture
def lead_to(monkeypatch: pytest.MonkeyPatch) -> Callable[[HostileWeb], None]:
    """Have the crawl's own session reach Bing and the picture host at a server of the test."""
    real = session.open_session

    def lead(web: HostileWeb) -> None:
        def open_session(*arguments: Any) -> requests.Session:
            opened = real(*arguments)
            for prefix in (BING, PICTURE_HOST):
                opened.mount(prefix, web.detour())
            return opened

        monkeypatch.setattr(crawler, "open_session", open_session)

    return lead
