"""The stage `depthmap`: labels every composite, batch by batch, into depth_fg_bg.zip.

`prepare` decides who labels and measures what there is to measure; `run` labels. The one rule: what
was decided stands in the manifest, and a run that goes on keeps to it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from depthgen.archive import Archive
from depthgen.depth.choose import choose_network
from depthgen.depth.layered import backgrounds_with_depth
from depthgen.errors import OptionsError, StageError
from depthgen.stage import Progress, Summary, no_progress, open_stage, require_archive
from depthgen.workers import default_workers
from depthgen.workspace import parse_member, picture_stem

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from depthgen.depth.plan import Plan
    from depthgen.workspace import Workspace

LAYERED = "layered"
PRECISIONS = ("auto", "float32", "bf16", "fp16")
_QUANTITIES = ("depth_m", "depth_relative", "inverse_depth_relative", "densedepth")


@dataclass(frozen=True)
class DepthmapOptions:
    """How to label. Raises `OptionsError` where a value makes no sense.

    model: who computes depth: "layered", "densedepth", "keras", "onnx", a network of the hub by its
    name here or there, or a folder; "auto" takes the best that the workspace allows. weights: the
    network's file or folder. bg_model: with "layered", the network that computes the backgrounds'
    depth; else their own is taken. batch: samples that are committed together. forward_batch:
    samples that go through the network at once; 0 finds the fastest. device: "auto", "cpu", "cuda",
    … precision: "auto" is the fastest whose labels are nearly float32's. bits: 8 or 16 a label
    pixel, or 32 for float32. quantity, input_size: what a Keras or ONNX file's numbers mean, and
    its input's (height, width), where the file does not say.
    """

    model: str = "auto"
    weights: Path | None = None
    bg_model: str | None = None
    batch: int = 1000
    forward_batch: int = 0
    device: str = "auto"
    precision: str = "auto"
    bits: int = 8
    quantity: str | None = None
    input_size: tuple[int, int] | None = None
    workers: int = field(default_factory=default_workers)
    overwrite: bool = False

    def __post_init__(self) -> None:
        precisions = ", ".join(PRECISIONS)
        checks = (
            (self.batch >= 1, f"--batch must be at least 1, not {self.batch}"),
            (self.forward_batch >= 0, "--forward-batch must be at least 1, or auto"),
            (self.bits in (8, 16, 32), f"--bits must be 8, 16 or 32, not {self.bits}"),
            (
                self.precision in PRECISIONS,
                f"--precision must be one of {precisions}, not {self.precision}",
            ),
            (
                self.quantity in (None, *_QUANTITIES),
                f"--quantity must be one of {', '.join(_QUANTITIES)}, not {self.quantity}",
            ),
            (
                self.bg_model is None or self.model == LAYERED,
                "--bg-model goes with --model layered",
            ),
            (self.workers >= 1, f"--workers must be at least 1, not {self.workers}"),
        )
        for fine, complaint in checks:
            if not fine:
                raise OptionsError(complaint)

    @property
    def given(self) -> dict[str, Any]:
        """What the person says of a network file."""
        said = {"meaning": self.quantity, "size": self.input_size}
        return {name: value for name, value in said.items() if value is not None}


def prepare(
    workspace: Workspace,
    options: DepthmapOptions,
    tell: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Decide who labels; of a network, load it and measure how to run it.

    tell: called with what a person should know before it starts: a licence, a download.
    Raises `StageError` if there are no composites, or nothing to label them with.
    """
    require_archive(workspace, "fg_bg_mask", "composite")
    missing = _without_depth(workspace)
    if options.model == LAYERED and options.bg_model is None and missing:
        raise StageError(_no_depth(workspace, missing))
    if options.model == LAYERED or (
        options.model == "auto" and options.weights is None and not missing
    ):
        from depthgen.depth.layered_plan import plan_layered

        over = None
        if options.bg_model is not None:
            over = choose_network(workspace, options.bg_model, options.weights, options.given)
            _needs_torch()
        return plan_layered(workspace, options, over, tell)
    network = choose_network(workspace, options.model, options.weights, options.given)
    _needs_torch()
    from depthgen.depth.network_plan import plan_network

    return plan_network(workspace, options, network, tell)


def run(
    workspace: Workspace,
    options: DepthmapOptions,
    progress: Progress = no_progress,
    plan: Plan | None = None,
) -> Summary:
    """Label every composite of the workspace. plan: what `prepare` gave for these options.

    Raises `StageError` as `prepare` does, and if a network fails on a sample.
    """
    plan = plan or prepare(workspace, options)
    outputs, reads = plan.outputs, plan.reads
    with open_stage(
        workspace, "depthmap", plan.settings, reads, outputs, options.overwrite
    ) as stage:
        if stage.done:
            return stage.summary()
        samples = plan.label(progress)
        return stage.finish({"samples": samples}, **asdict(plan.quantity), **plan.facts)


def _without_depth(workspace: Workspace) -> list[int]:
    """The backgrounds of the composites that have no depth of their own."""
    with Archive.open(workspace.archive("fg_bg_mask")) as masks:
        members = [parse_member(name) for name in masks.names]
        if None in members or not members:
            raise StageError(f"{masks.paths[0]} has members that are not masks of samples")
        wanted = {member.bg for member in members if member}
    return sorted(wanted - backgrounds_with_depth(workspace))


def _no_depth(workspace: Workspace, missing: list[int]) -> str:
    return (
        f"{len(missing)} backgrounds have no depth in {workspace.archive('bg_depth')} "
        f"({picture_stem('bg', missing[0])} is the first): render rooms with `depthgen render`, or "
        "bring your own depth maps with `depthgen crawl --source folder --kind bg --from DIR "
        "--depth DIR`, then crop; or let a network do it with --bg-model"
    )


def _needs_torch() -> None:
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise StageError(
            "a depth network needs PyTorch, which is not installed: type "
            "`pip install 'depthgen-vathos[train]'`, or label without a network: --model layered, "
            "over rendered rooms or backgrounds with depth maps"
        )
