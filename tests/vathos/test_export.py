"""Exported files, run by onnxruntime and by torch without this project's classes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from tests.vathos.checkpoints import QUANTITY, drawn_network, save_checkpoint
from vathos import export as module
from vathos.errors import CheckpointError, ConfigError, DataError, UsageError
from vathos.export import METADATA_FILE, export

if TYPE_CHECKING:
    from pathlib import Path

SHAPES = ((1, 96, 32), (3, 48, 64))


def expected(network: Any, bg: torch.Tensor, fg_bg: torch.Tensor) -> tuple[Any, Any]:
    with torch.no_grad():
        depth, mask = network(torch.cat((bg, fg_bg), dim=1))
    return torch.sigmoid(mask).numpy(), torch.sigmoid(depth).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ResUNet", "ResUNeXt"])
def test_onnxruntime_gives_what_the_network_gives(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    network = drawn_network(name)
    done = export(save_checkpoint(tmp_path / "a.pt", name), "onnx")
    assert done.path == tmp_path / "a.onnx"
    assert done.difference <= 1e-4
    session = onnxruntime.InferenceSession(done.path, providers=["CPUExecutionProvider"])
    for count, height, width in SHAPES:
        bg, fg_bg = torch.rand(2, count, 3, height, width)
        results = session.run(None, {"bg": bg.numpy(), "fg_bg": fg_bg.numpy()})
        for mine, theirs in zip(results, expected(network, bg, fg_bg), strict=True):
            assert mine.shape == (count, 1, height, width)
            assert np.abs(mine - theirs).max() < 1e-4
    assert [each.name for each in session.get_outputs()] == ["mask", "depth"]
    told = session.get_modelmeta().custom_metadata_map
    assert told["model"] == name
    assert json.loads(told["trained_size"]) == [32, 32]
    assert json.loads(told["quantity"]) == QUANTITY
    assert "metres = 10 × label" in told["outputs"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.pt"]


@pytest.mark.slow
def test_a_pt2_gives_what_the_network_gives(tmp_path: Path) -> None:
    network = drawn_network("ResUNet")
    done = export(save_checkpoint(tmp_path / "a.pt", "ResUNet"), "pt2", tmp_path / "b" / "c.pt2")
    files = {METADATA_FILE: ""}
    loaded: Any = torch.export.load(done.path, extra_files=files).module()
    for count, height, width in SHAPES:
        bg, fg_bg = torch.rand(2, count, 3, height, width)
        with torch.no_grad():
            results = loaded(bg, fg_bg)
        for mine, theirs in zip(results, expected(network, bg, fg_bg), strict=True):
            assert np.abs(mine.numpy() - theirs).max() < 1e-4
    assert json.loads(files[METADATA_FILE])["model"] == "ResUNet"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_traced", lambda model: model)
    monkeypatch.setattr(module, "_pt2", lambda program, network: b"a network")
    monkeypatch.setattr(module, "_run_pt2", lambda data: module._TwoInputs(drawn_network()).eval())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("wrong", [2e-4, float("nan")])
def test_a_file_that_gives_something_else_is_not_written(
    wrong: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_checkpoint(tmp_path / "a.pt")
    assert export(path, "pt2", tmp_path / "good.pt2").difference == 0

    def off(data: bytes) -> Any:
        right = module._TwoInputs(drawn_network()).eval()
        return lambda bg, fg_bg: tuple(each + wrong for each in right(bg, fg_bg))

    monkeypatch.setattr(module, "_run_pt2", off)
    with pytest.raises(CheckpointError, match="nothing was written"):
        export(path, "pt2")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.pt", "good.pt2"]


@pytest.mark.usefixtures("quick")
def test_where_it_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "a.pt")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        export(path, "pt2", tmp_path / "file" / "a.pt2")
    with pytest.raises(UsageError, match="is a folder"):
        export(path, "pt2", tmp_path)
    with pytest.raises(UsageError, match="no format 'keras'"):
        export(path, "keras")  # type: ignore[arg-type]


def test_onnx_without_its_extra_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'depthgen-vathos\[onnx\]'"):
        export(tmp_path / "a.pt", "onnx")
