"""How fast this machine trains, by batch size: `depthgen bench`.

The one rule: what is timed is the loop that trains, `BaseTrainer.start_train`, as the configuration
sets it up; this package only watches it, counts what the network needs, and measures what the
device can give.
"""

from vathos.bench.options import BenchOptions, read_batch_sizes, read_models
from vathos.bench.report import bench_report, draw
from vathos.bench.result import Bench, Row
from vathos.bench.run import bench

__all__ = [
    "Bench",
    "BenchOptions",
    "Row",
    "bench",
    "bench_report",
    "draw",
    "read_batch_sizes",
    "read_models",
]
