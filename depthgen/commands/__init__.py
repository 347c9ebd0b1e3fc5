"""The commands of the first wing, in the order of the chain; `cli.py` enters them in the group.

The one rule: a command parses, calls its stage and prints; nothing heavy is imported before it
runs.
"""

from depthgen.commands.archives import doctor, resize, stats, status, verify
from depthgen.commands.labels import depth_agreement, depthmap
from depthgen.commands.samples import composite, crop, mask, prepare
from depthgen.commands.sources import crawl, render

CHAIN = (
    crawl,
    render,
    mask,
    crop,
    prepare,
    composite,
    depthmap,
    depth_agreement,
    resize,
    stats,
    verify,
    status,
    doctor,
)
