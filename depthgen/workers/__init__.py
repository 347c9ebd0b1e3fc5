"""Work over processes: an ordered, bounded map, and streams. No other module knows how it is done.

`ordered` and `streams` are what is offered, `process` is a worker as its parent sees it, `serve` is
what it runs, `wire` is how the two talk.
"""

from depthgen.workers.errors import WorkerError
from depthgen.workers.ordered import ordered_map
from depthgen.workers.process import default_workers
from depthgen.workers.streams import streams

__all__ = ["WorkerError", "default_workers", "ordered_map", "streams"]
