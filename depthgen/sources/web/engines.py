"""The search engines by name.

The one rule: an engine that stands here can be asked for by that name, and no other can.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from depthgen.sources.web.baidu import Baidu
from depthgen.sources.web.bing import Bing
from depthgen.sources.web.flickr import Flickr
from depthgen.sources.web.google import Google

if TYPE_CHECKING:
    from collections.abc import Mapping

    from depthgen.sources.web.search import Engine

ENGINES: Mapping[str, Engine] = MappingProxyType(
    {each.name: each for each in (Bing(), Google(), Baidu(), Flickr())}
)
