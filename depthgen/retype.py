"""The command that a stage was run with, as its manifest tells.

The one rule: typed as it is given here, a command is not refused for other options than before.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from depthgen.stage import command_of

if TYPE_CHECKING:
    from pathlib import Path

# What is typed for one value of a manifest.
_Typed = Callable[[Any], list[str]]


def _option(name: str) -> _Typed:
    return lambda value: [f"--{name}", *map(str, value if isinstance(value, list) else [value])]


def _each(name: str) -> _Typed:
    return lambda values: [word for value in values for word in (f"--{name}", str(value))]


def _switch(name: str) -> _Typed:
    return lambda _: [f"--{name}"]


def _network(name: str) -> _Typed:
    def typed(model: str) -> list[str]:
        from depthgen.depth.hub import NETWORKS  # slow to import, and seldom needed

        if model in ("keras", "onnx"):
            return [f"--{name}", model, "--weights", "FILE"]
        # Of a folder the manifest knows the last part alone.
        known = model in ("densedepth", *NETWORKS) or "/" in model
        return [f"--{name}", model if known else "DIR"]

    return typed


def _over(model: str) -> list[str]:
    return ["--model", "layered", *_network("bg-model")(model)]


def _meaning(given: Mapping[str, Any]) -> list[str]:
    quantity = ["--quantity", given["meaning"]] if "meaning" in given else []
    size = ["--input-size", *map(str, given["size"])] if "size" in given else []
    return quantity + size


# Of each stage: setting, what the command line takes where nothing is typed, what is typed else.
_OPTIONS: Mapping[str, Mapping[str, tuple[Any, _Typed]]] = {
    "crawl": {
        "source": ("bing", _option("source")),
        "kind": ("", _option("kind")),
        "keywords": ([], _each("keyword")),
        "origin": (None, _option("from")),
        "url_column": ("url", _option("url-column")),
        "depth_origin": (None, _option("depth")),
        "count": (None, _option("count")),
        "license": ("", _option("license")),
        "min_size": (32, _option("min-size")),
        "max_bytes": (None, _option("max-bytes")),
        "dedupe": (False, _switch("dedupe")),
        "deadline_s": (None, _option("deadline")),
        "timeout_s": (10.0, _option("timeout")),
        "retries": (2, _option("retries")),
        "per_host_delay_s": (None, _option("per-host-delay")),
        "threads": (16, _option("threads")),
        "allow_private": (False, _switch("allow-private")),
        "ignore_opt_out": (False, _switch("ignore-opt-out")),
    },
    "render": {
        "bg": (100, _option("bg")),
        "fg": (100, _option("fg")),
        "size": (192, _option("size")),
        "seed": (0, _option("seed")),
    },
    "crop": {"size": (192, _option("size")), "quality": (90, _option("quality"))},
    "composite": {
        "bg": (None, _option("bg")),
        "fg": (None, _option("fg")),
        "placements": (20, _option("placements")),
        "flip": (True, _switch("no-flip")),
        "scale": ([0.25, 0.55], _option("scale")),
        "quality": (90, _option("quality")),
        "mask_format": ("png", _option("mask-format")),
        "seed": (0, _option("seed")),
        "shards": (1, _option("shards")),
    },
    # Precision, scale and forward batch are in the manifest, and taken from there.
    "depthmap": {
        "model": ("layered", _network("model")),
        "bg_model": (None, _over),
        "weights_typed": (None, _option("weights")),
        "bits": (8, _option("bits")),
        "given": ({}, _meaning),
    },
}


def command(root: Path) -> str:
    """`depthgen`, and the workspace if it is not the default one."""
    return "depthgen" if str(root) == "data" else f"depthgen -w {shlex.quote(str(root))}"


def retype(root: Path, stage: str, settings: Mapping[str, Any], overwrite: bool = False) -> str:
    """The command that runs a stage with these settings; defaults are left out."""
    name = command_of(stage)
    words = []
    for setting, (default, typed) in _OPTIONS.get(name, {}).items():
        value = settings.get(setting, default)
        if value != default:
            words += typed(value)
    if overwrite:
        words.append("--overwrite")
    return " ".join((command(root), name, *map(shlex.quote, words)))
