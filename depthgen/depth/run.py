"""The stage `depthmap`: labels every composite, batch by batch, into depth_fg_bg.zip.

`prepare` decides who labels and measures what there is to measure; `run` labels. The one rule: what
was decided stands in the manifest, and a run that goes on keeps to it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from depthgen.archive import Archive, partial_path
from depthgen.depth.choose import choices, choose_network
from depthgen.depth.estimator import EstimatorError
from depthgen.depth.layered import backgrounds_with_depth
from depthgen.depth.plan import NETWORK_DEPTH, NETWORK_STAGE
from depthgen.errors import OptionsError, StageError
from depthgen.files import delete
from depthgen.stage import Progress, Summary, no_progress, open_stage, require_archive
from depthgen.workers import default_workers
from depthgen.workspace import parse_member, picture_stem

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from depthgen.depth.choose import Network
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
            (
                self.weights is None or self.model != LAYERED or self.bg_model is not None,
                "--weights goes with a network; with --model layered, give --bg-model too",
            ),
            (
                self.precision in ("auto", "float32") or self.model != LAYERED,
                f"--precision {self.precision} is for networks that look at composites; --model "
                "layered computes in float32, leave it out",
            ),
            (
                not self.given or self.model != LAYERED or self.bg_model is not None,
                "--quantity and --input-size go with a network; with --model layered, give "
                "--bg-model too",
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

    def choose() -> Network:
        name = options.bg_model or options.model
        return choose_network(workspace, name, options.weights, options.given)

    network = None
    if options.model not in ("auto", LAYERED) or options.bg_model is not None:
        network = choose()  # a name that is none is told before anything else
    require_archive(workspace, "fg_bg_mask", "composite")
    missing = _without_depth(workspace)
    if options.model == "auto" and (missing or options.weights is not None):
        network = choose()
    elif options.model == "auto" and options.given:
        raise OptionsError(
            "--model auto takes the backgrounds' own depth here, and --quantity and --input-size "
            "go with a network; name one with --model, or leave them out"
        )
    if network is None and missing:
        raise StageError(_no_depth(workspace, missing))
    if network is not None:
        _needs_torch(workspace, network, options)
    if network is None or options.model == LAYERED:
        from depthgen.depth.layered_plan import plan_layered

        return plan_layered(workspace, options, network, tell)
    from depthgen.depth.network_plan import plan_network

    try:
        return plan_network(workspace, options, network, tell)
    except EstimatorError as error:
        if options.model != "auto" or network.weights is not None:
            raise
        raise StageError(choices(workspace, str(error))) from error


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
    plan.begin()
    outputs, reads = plan.outputs, plan.reads
    with open_stage(
        workspace, "depthmap", plan.settings, reads, outputs, options.overwrite
    ) as stage:
        if f"{NETWORK_DEPTH}.zip" not in stage.manifest.reads:
            _delete_network_depth(workspace)
        if stage.done:
            return stage.summary()
        facts = stage.keep({**asdict(plan.quantity), **plan.facts})
        return stage.finish({"samples": plan.label(progress)}, **facts)


def _delete_network_depth(workspace: Workspace) -> None:
    """Delete what a network made of the backgrounds for other labels than there are now.

    No command would make it anew, so `verify` would find it out of date for ever.
    """
    archive, manifest = workspace.archive(NETWORK_DEPTH), workspace.manifest(NETWORK_STAGE)
    if not manifest.exists():
        return  # an archive of that name is not ours
    for path in (archive, partial_path(archive), manifest):
        delete(path)


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


def _needs_torch(workspace: Workspace, network: Network, options: DepthmapOptions) -> None:
    from importlib.util import find_spec

    if find_spec("torch") is not None:
        return
    install = f"pip install 'depthgen-vathos[{network.extra}]'"
    if options.model == "auto" and options.weights is None:
        raise StageError(choices(workspace, f"a network needs PyTorch: type `{install}`"))
    raise StageError(
        f"the network {network.asked} needs PyTorch, not installed here; type `{install}`"
    )
