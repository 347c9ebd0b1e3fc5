"""Which network labels, by names and files alone; and the sentence where none can."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from depthgen import images
from depthgen.archive import ArchiveWriter
from depthgen.depth import DepthmapOptions, choose, prepare
from depthgen.depth.choose import (
    FILE_MODELS,
    Network,
    choose_network,
    find_densedepth,
    weights_typed,
)
from depthgen.depth.hub import DEFAULT_NETWORK, NETWORKS, Download
from depthgen.errors import DepthgenError, OptionsError, StageError
from depthgen.workspace import Workspace
from tests.depthgen.depth.composites import SIDE, Formula, make_composites


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEPTHGEN_WEIGHTS", raising=False)


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_weights_are_looked_for_in_the_variable_then_the_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path / "W")
    assert find_densedepth(workspace) is None
    kitti = touch(workspace.weights / "kitti.h5")
    touch(workspace.weights / "notes.txt")
    assert find_densedepth(workspace) == kitti
    nyu = touch(workspace.weights / "nyu.pt")
    assert find_densedepth(workspace) == nyu
    elsewhere = touch(tmp_path / "elsewhere" / "mine.h5")
    for value in (elsewhere, elsewhere.parent):
        monkeypatch.setenv("DEPTHGEN_WEIGHTS", str(value))
        assert find_densedepth(workspace) == elsewhere
    elsewhere.unlink()
    assert find_densedepth(workspace) == nyu
    monkeypatch.setenv("DEPTHGEN_WEIGHTS", str(elsewhere))
    with pytest.raises(StageError, match=r"\$DEPTHGEN_WEIGHTS is .*mine\.h5, which is not there"):
        find_densedepth(workspace)


def test_auto_is_densedepth_if_its_weights_are_there_else_the_hubs_default(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert choose_network(workspace, "auto", None, {}) == Network(DEFAULT_NETWORK)
    nyu = touch(workspace.weights / "nyu.h5")
    assert choose_network(workspace, "auto", None, {}) == Network("densedepth", nyu)
    assert choose_network(workspace, "densedepth", None, {}) == Network("densedepth", nyu)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("nyu.h5", "densedepth"),
        ("nyu.pth", "densedepth"),
        ("net.ONNX", "onnx"),
        ("net.keras", "keras"),
    ],
)
def test_auto_takes_given_weights_for_what_their_ending_says(
    tmp_path: Path, name: str, model: str
) -> None:
    path = touch(tmp_path / name)
    assert choose_network(Workspace(tmp_path), "auto", path, {}) == Network(model, path)


def test_a_folder_is_a_network_of_the_hub_that_lies_here(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    chosen = choose_network(Workspace(tmp_path), "auto", folder, {})
    assert (chosen.model, chosen.weights) == (str(folder), folder)
    assert choose_network(Workspace(tmp_path), str(folder), None, {}).model == str(folder)
    assert chosen.announce() == []


@pytest.mark.parametrize(("here", "model"), [("net", "."), ("net/inner", ".."), (".", "net/")])
def test_a_folder_has_its_name_from_wherever_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str, model: str
) -> None:
    (tmp_path / "net" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / here)
    assert choose_network(Workspace(tmp_path), model, None, {}).asked == "net"
    assert choose_network(Workspace(tmp_path), "auto", Path(model), {}).asked == "net"


def test_a_link_to_a_folder_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "net").symlink_to("snapshot")
    assert Network(str(tmp_path / "net")).asked == "net"


def test_an_empty_name_is_not_the_current_folder(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="there is no model ''; use one of auto"):
        choose_network(Workspace(tmp_path), "", None, {})


LICENCE = "depth-anything/Depth-Anything-V2-Base-hf is licensed CC-BY-NC-4.0: it and the labels"
DOWNLOAD = "ann/net: 390.1 MB to download into /cache, licence: cc-by-nc-4.0"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub on which every network is yet to be downloaded."""
    download = Download(
        "ann/net", ("model.safetensors",), 390_100_000, "cc-by-nc-4.0", Path("/cache")
    )
    monkeypatch.setattr(choose, "describe_download", lambda name: download)


@pytest.mark.usefixtures("hub")
def test_the_licence_and_the_download_are_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    licence, download = Network("depth-anything-v2-base").announce()
    assert licence.startswith(LICENCE)
    assert download == DOWNLOAD
    assert Network(DEFAULT_NETWORK).announce() == [DOWNLOAD]
    assert Network("depth-anything-v2-base", tmp_path).announce() == []
    monkeypatch.setattr(choose, "describe_download", lambda name: None)
    assert Network(DEFAULT_NETWORK).announce() == []


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    "asked",
    [
        {"model": "depth-anything-v2-base"},
        {"model": "layered", "bg_model": "depth-anything-v2-base"},
    ],
    ids=str,
)
def test_they_are_told_before_a_network_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, str]
) -> None:
    told: list[str] = []

    def load(network: Network, device: Any, precision: Any) -> Formula:
        told.append("loaded")
        return Formula(precision)

    monkeypatch.setattr(Network, "load", load)
    options: dict[str, Any] = {"precision": "float32", "forward_batch": 1, "device": "cpu"}
    prepare(make_composites(tmp_path), DepthmapOptions(**options | asked), told.append)
    assert told[0].startswith(LICENCE)
    assert told[1:] == [DOWNLOAD, "loaded"]


@pytest.mark.parametrize("name", [*NETWORKS, "someone/some-net"])
def test_names_of_the_hub_are_taken_as_they_are(tmp_path: Path, name: str) -> None:
    assert choose_network(Workspace(tmp_path), name, None, {}) == Network(name)


@pytest.mark.parametrize(
    ("model", "weights", "told"),
    [
        ("densedepth", None, r"no weights of DenseDepth in .*weights or \$DEPTHGEN_WEIGHTS.*dead"),
        ("densedepth", "nowhere.h5", r"--weights .*nowhere\.h5 is not there"),
        ("densedepth", "folder", r"--weights .*folder is no file; --model densedepth needs one"),
        ("keras", None, "--model keras needs the network's file; give it with --weights FILE"),
        ("onnx", "folder", "is no file; --model onnx"),
        ("auto", "nowhere.h5", "is not there"),
    ],
)
def test_missing_weights_are_told(
    tmp_path: Path, model: str, weights: str | None, told: str
) -> None:
    (tmp_path / "folder").mkdir()
    given = tmp_path / weights if weights else None
    with pytest.raises(StageError, match=told):
        choose_network(Workspace(tmp_path), model, given, {})


def test_a_name_that_is_none_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(OptionsError) as caught:
        choose_network(Workspace(tmp_path), "magic", None, {})
    for known in ("auto", "layered", "densedepth", "keras", "onnx", *NETWORKS):
        assert known in str(caught.value)


@pytest.mark.parametrize(
    ("model", "given", "told"),
    [
        ("dpt-large", {"meaning": "densedepth"}, "--quantity densedepth .* network dpt-large;"),
        ("dpt-large", {"size": (1, 1)}, "--input-size .* network dpt-large knows its own"),
        ("densedepth", {"size": (1, 1)}, "--input-size .* network densedepth knows its own"),
        ("densedepth", {"meaning": "inverse_depth_relative"}, "densedepth gives metres and noth"),
        ("auto", {"meaning": "densedepth"}, f"--quantity densedepth .* network {DEFAULT_NETWORK};"),
    ],
)
def test_an_option_that_the_network_has_no_use_for_is_refused_before_it_is_read(
    tmp_path: Path, model: str, given: dict[str, Any], told: str
) -> None:
    weights = touch(tmp_path / "nyu.h5") if model == "densedepth" else None
    network = choose_network(Workspace(tmp_path), model, weights, given)
    with pytest.raises(OptionsError, match=told):
        network.load(torch.device("cpu"), "float32")


def test_layered_over_layered_is_refused_with_the_networks_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="--bg-model layered is no network; use one of auto, de"):
        prepare(make_composites(tmp_path), DepthmapOptions("layered", bg_model="layered"))


def put_depth(workspace: Workspace, backgrounds: int) -> None:
    with ArchiveWriter(workspace.archive("bg_depth")) as writer:
        for bg in range(backgrounds):
            depth = np.full((SIDE, SIDE), 3000, np.uint16)
            writer.add(f"bg_depth/bg_{bg:03d}.png", images.encode_png(depth))


def test_auto_is_layered_where_every_background_has_depth(tmp_path: Path) -> None:
    workspace = make_composites(tmp_path)
    put_depth(workspace, 5)
    touch(workspace.weights / "nyu.h5")
    plan = prepare(workspace, DepthmapOptions(workers=1))
    assert plan.settings == {"model": "layered", "bits": 8}
    with pytest.raises(DepthgenError, match=r"nyu\.h5"):  # given, they come first
        prepare(workspace, DepthmapOptions(weights=workspace.weights / "nyu.h5"))


def test_depth_of_their_own_goes_before_the_variable_and_takes_no_word_on_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_composites(tmp_path)
    put_depth(workspace, 5)
    monkeypatch.setenv("DEPTHGEN_WEIGHTS", str(tmp_path / "gone.h5"))
    assert prepare(workspace, DepthmapOptions(workers=1)).settings["model"] == "layered"
    with pytest.raises(OptionsError, match=r"auto takes the backgrounds' own depth .* leave them"):
        prepare(workspace, DepthmapOptions(quantity="depth_m"))


def sentence(workspace: Workspace, **options: Any) -> str:
    with pytest.raises(StageError) as caught:
        prepare(workspace, DepthmapOptions(**options))
    return str(caught.value)


@pytest.mark.parametrize("lacking", ["torch", "transformers", "network"])
def test_where_nothing_can_label_one_sentence_lists_the_choices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    workspace = make_composites(tmp_path / "W")
    put_depth(workspace, 4)  # one is lacking
    find = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> Any:
        return None if name == lacking else find(name, package)

    if lacking == "network":
        pytest.importorskip("transformers")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr("depthgen.depth.extras.find_spec", find_spec)
    told = sentence(workspace)
    reasons = {
        "torch": r"pip install 'depthgen-vathos[transformers]'",
        "transformers": r"pip install 'depthgen-vathos[transformers]'",
        "network": "hf download",
    }
    assert reasons[lacking] in told
    for choice in ("depthgen render", "--depth DIR", "nyu.h5", "[transformers]", "--weights DIR"):
        assert choice in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("model", "extra"),
    [
        ("densedepth", "train"),
        ("keras", "keras"),
        ("onnx", "onnx"),
        (DEFAULT_NETWORK, "transformers"),
        ("someone/something", "transformers"),
    ],
)
def test_without_torch_a_network_names_the_extra_that_brings_all_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, extra: str
) -> None:
    workspace = make_composites(tmp_path / "W")
    file = touch(tmp_path / "network")
    weights = file if model in FILE_MODELS else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    told = sentence(workspace, model=model, weights=weights)
    assert told == (
        f"the network {model} needs PyTorch, not installed here; type "
        f"`pip install 'depthgen-vathos[{extra}]'`"
    )


def test_layered_without_depth_says_how_to_get_it(tmp_path: Path) -> None:
    workspace = make_composites(tmp_path)
    told = sentence(workspace, model="layered")
    assert "5 backgrounds have no depth" in told
    assert "bg_000 is the first" in told
    assert "--bg-model" in told


@pytest.mark.parametrize(
    ("network", "weights", "kept"),
    [
        (Network("densedepth", Path("found/nyu.h5")), None, {}),
        (Network("densedepth", Path("nyu.h5")), "nyu.h5", {"weights_typed": "FILE"}),
        (Network("glpn-nyu", Path()), ".", {"weights_typed": "DIR"}),
        (Network(".", Path()), ".", {}),  # `--model DIR` says it
        (Network("onnx", Path("net.onnx")), "net.onnx", {}),  # and so does this name
    ],
    ids=str,
)
def test_weights_are_kept_as_typed_but_for_their_path(
    network: Network, weights: str | None, kept: dict[str, str]
) -> None:
    assert weights_typed(network, Path(weights) if weights else None) == kept
