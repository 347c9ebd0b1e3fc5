"""Which model labels: the one that was asked for, or the best that the workspace allows.

The one rule: it is decided from names and files alone; nothing is loaded or downloaded here, so
that a wrong command line is told before anything slow begins.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthgen.depth.hub import (
    DEFAULT_NETWORK,
    NETWORKS,
    describe_download,
    licence_notice,
    shown_name,
)
from depthgen.errors import OptionsError, StageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from depthgen.depth.estimator import Estimator, PrecisionName
    from depthgen.workspace import Workspace

FILE_MODELS = ("densedepth", "keras", "onnx")
_DENSEDEPTH_SUFFIXES = (".h5", ".hdf5", ".pt", ".pth")
_WEIGHTS_VARIABLE = "DEPTHGEN_WEIGHTS"


@dataclass(frozen=True)
class Network:
    """A network that labels. model: `densedepth`, `keras`, `onnx`, or what the hub knows it by.

    weights: its file, or its folder; None where the hub is to be asked. given: what the person says
    of a file that does not say it itself, fields of `convention.Convention`.
    """

    model: str
    weights: Path | None = None
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_precisions(self) -> bool:
        """Whether it can compute in another precision than the one in its file."""
        return self.model not in ("keras", "onnx")

    @property
    def extra(self) -> str:
        """The extra of this project that brings all it runs on."""
        extras = {"densedepth": "train", "keras": "keras", "onnx": "onnx"}
        return extras.get(self.model, "transformers")

    @property
    def asked(self) -> str:
        """What `--model` says to have it; of a folder its own name."""
        return shown_name(self.model)

    def announce(self) -> list[str]:
        """What a person is to know before it is loaded: its licence, and what is downloaded."""
        if self.model in FILE_MODELS or self.weights is not None or Path(self.model).is_dir():
            return []
        download = describe_download(self.model)
        return [str(each) for each in (licence_notice(self.model), download) if each]

    def load(self, device: torch.device, precision: PrecisionName) -> Estimator:
        """Raises `EstimatorError` or `OptionsError` where it cannot be had as it is asked for."""
        self._refuse_what_it_ignores()
        if self.model == "densedepth":
            from depthgen.depth.densedepth import load_densedepth

            return load_densedepth(_required(self.weights), device, precision)
        if self.model == "keras":
            from depthgen.depth.keras_model import load_keras

            return load_keras(_required(self.weights), device, self.given)
        if self.model == "onnx":
            from depthgen.depth.onnx_model import load_onnx

            return load_onnx(_required(self.weights), device, self.given)
        from depthgen.depth.transformers_model import load_transformers

        quantity = self.given.get("meaning")
        return load_transformers(
            self.model, device, precision, folder=self.weights, quantity=quantity
        )

    def _refuse_what_it_ignores(self) -> None:
        """Raise `OptionsError` for what is given of a network that says it itself.

        Not as soon as it is chosen: what `auto` finds may give way to `layered`.
        """
        if self.model in ("keras", "onnx"):
            return
        meaning = self.given.get("meaning")
        if self.model == "densedepth" and meaning is not None:
            raise OptionsError(
                "the network densedepth gives metres and nothing else; leave out --quantity, or "
                "read a network of another kind with --model keras or onnx"
            )
        if meaning == "densedepth":
            raise OptionsError(
                "--quantity densedepth is for Keras and ONNX files, not for the network "
                f"{self.asked}; leave it out, or give depth_m, depth_relative or "
                "inverse_depth_relative"
            )
        if "size" in self.given:
            raise OptionsError(
                f"--input-size is for Keras and ONNX files, and the network {self.asked} knows its "
                "own; leave it out"
            )


def _required(weights: Path | None) -> Path:
    assert weights is not None, "choose_network looks for it"
    return weights


def choose_network(
    workspace: Workspace, model: str, weights: Path | None, given: Mapping[str, Any]
) -> Network:
    """The network of a name; "auto" is DenseDepth if its weights are found, else the hub's default.

    Raises `OptionsError` for a name that is none, `StageError` if its weights are not there.
    """
    if weights is not None and not weights.exists():
        raise StageError(f"--weights {weights} is not there; give the file or folder of a network")
    if model == "auto":
        found = weights or find_densedepth(workspace)
        if found is not None:
            return Network(_kind_of(found), found, given)
        return Network(DEFAULT_NETWORK, None, given)
    if model in FILE_MODELS:
        found = weights or (find_densedepth(workspace) if model == "densedepth" else None)
        if found is None:
            raise StageError(_no_weights(workspace, model))
        if not found.is_file():
            raise StageError(f"--weights {found} is no file; --model {model} needs one")
        return Network(model, found, given)
    # The empty path is the current folder.
    if model in NETWORKS or "/" in model or (model and Path(model).is_dir()):
        return Network(model, weights, given)
    if model == "layered":
        networks = ", ".join(("auto", *FILE_MODELS, *NETWORKS))
        raise OptionsError(
            f"--bg-model layered is no network; use one of {networks}, a hub id, or a folder"
        )
    known = ", ".join(("auto", "layered", *FILE_MODELS, *NETWORKS))
    raise OptionsError(f"there is no model {model!r}; use one of {known}, a hub id, or a folder")


def weights_typed(network: Network, weights: Path | None) -> dict[str, str]:
    """What the manifest keeps of --weights, so that `status` tells to type it again.

    Not its path, for files move. Nothing is kept where the name of the model says it, or where the
    weights are found without being typed.
    """
    if weights is None or not network.has_precisions or weights == Path(network.model):
        return {}
    return {"weights_typed": "DIR" if weights.is_dir() else "FILE"}


def _kind_of(weights: Path) -> str:
    """The model that a file or folder given with --weights is taken for."""
    if weights.is_dir():
        return str(weights)
    by_suffix = {".onnx": "onnx", ".keras": "keras"}
    return by_suffix.get(weights.suffix.lower(), "densedepth")


def find_densedepth(workspace: Workspace) -> Path | None:
    """DenseDepth's weights, in $DEPTHGEN_WEIGHTS (a file or a folder) or `W/weights`.

    `nyu.h5` comes before other names, for its pictures are indoors, as the original's were.
    Raises `StageError` if the variable leads nowhere.
    """
    variable = os.environ.get(_WEIGHTS_VARIABLE)
    if variable and not Path(variable).exists():
        raise StageError(f"${_WEIGHTS_VARIABLE} is {variable}, which is not there; set it anew")
    for path in (*([Path(variable)] if variable else []), workspace.weights):
        if path.is_file():
            return path
        found = sorted(path.iterdir()) if path.is_dir() else []
        files = [each for each in found if each.suffix.lower() in _DENSEDEPTH_SUFFIXES]
        if files:
            return min(files, key=lambda each: (each.stem != "nyu", each.name))
    return None


def choices(workspace: Workspace, reason: str) -> str:
    """The sentence for one who asked for any label, and can have none because of `reason`."""
    return (
        f"nothing can label here yet ({reason}). Choose one: rooms with exact depth from "
        "`depthgen render`, or your own depth maps with `depthgen crawl --source folder --kind bg "
        "--from DIR --depth DIR`, for --model layered; DenseDepth's weights, nyu.h5, in "
        f"{workspace.weights} or with --weights; or {DEFAULT_NETWORK} from the hub, with "
        "`pip install 'depthgen-vathos[transformers]'`, or its folder with --weights DIR"
    )


def _no_weights(workspace: Workspace, model: str) -> str:
    if model != "densedepth":
        return f"--model {model} needs the network's file; give it with --weights FILE"
    return (
        f"there are no weights of DenseDepth in {workspace.weights} or ${_WEIGHTS_VARIABLE}, and "
        "the links they were published under are dead; give a file with --weights nyu.h5, or "
        f"choose what can be had today, such as --model {DEFAULT_NETWORK} or --model layered"
    )
