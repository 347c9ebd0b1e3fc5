"""The network against the original's layer table, which tests/data keeps as it was printed."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vathos.model import ResUNet
from vathos.model.resunet import ResUpBlock

LAYER_TABLE = Path(__file__).parents[1] / "data" / "resunet_layers.tsv"


def read_table(path: Path) -> list[tuple[str, str, int]]:
    with path.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    return [(row["type"], row["shape"], int(row["parameters"])) for row in rows]


def executed_layers(model: nn.Module, x: Tensor) -> list[tuple[str, str, int]]:
    """What ran, in order of completion: type, output shape without N, own parameters."""
    rows: list[tuple[str, str, int]] = []

    def record(module: nn.Module, _inputs: Any, outputs: Any) -> None:
        maps = outputs if isinstance(outputs, tuple) else (outputs,)
        shape = " ".join("x".join(map(str, m.shape[1:])) for m in maps)
        own = sum(p.numel() for p in module.parameters(recurse=False))
        rows.append((type(module).__name__, shape, own))

    for module in model.modules():
        container = type(module) in (nn.Sequential, nn.ModuleList)
        if module is not model and not container:
            module.register_forward_hook(record)
    with torch.no_grad():
        model(x)
    return rows


def test_every_row_of_the_original_layer_table_holds_at_192() -> None:
    table = read_table(LAYER_TABLE)
    assert len(table) == 162
    assert executed_layers(ResUNet().eval(), torch.zeros(1, 6, 192, 192)) == table


def test_parameter_count_is_that_of_the_original() -> None:
    model = ResUNet()
    assert sum(p.numel() for p in model.parameters()) == 15_855_712
    assert all(p.requires_grad for p in model.parameters())


def test_no_convolution_has_a_bias() -> None:
    convolutions = [m for m in ResUNet().modules() if isinstance(m, nn.Conv2d)]
    assert convolutions
    assert all(m.bias is None for m in convolutions)


@pytest.mark.parametrize("size", [(16, 16), (32, 48)])
def test_outputs_are_depth_then_mask_at_the_size_of_the_input(size: tuple[int, int]) -> None:
    depth_logits, mask_logits = ResUNet().eval()(torch.rand(2, 6, *size))
    assert depth_logits.shape == mask_logits.shape == (2, 1, *size)


def test_the_depth_output_does_not_see_the_mask_decoder() -> None:
    model = ResUNet().eval()
    depth_logits, _ = model(torch.rand(1, 6, 16, 16))
    depth_logits.sum().backward()
    assert all(p.grad is None for p in model.mask_decoder.parameters())
    assert all(p.grad is not None for p in model.depth_decoder.parameters())


def test_every_parameter_gets_a_gradient_from_the_two_outputs() -> None:
    model = ResUNet()
    depth_logits, mask_logits = model(torch.rand(2, 6, 32, 32))
    (depth_logits.sum() + mask_logits.sum()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_size_not_divisible_by_16_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"200 x 192: resize or pad it to 208 x 192"):
        ResUNet()(torch.zeros(1, 6, 200, 192))


def test_a_wrong_number_of_channels_says_what_the_network_takes() -> None:
    with pytest.raises(ValueError, match=r"\(N, 6, H, W\)"):
        ResUNet()(torch.zeros(1, 3, 32, 32))


def test_an_up_block_refuses_a_dense_map_it_was_not_built_for() -> None:
    block = ResUpBlock(8, 4, skip_channels=8)
    with pytest.raises(ValueError, match="dense_channels"):
        block(torch.zeros(1, 8, 4, 4), torch.zeros(1, 8, 8, 8), torch.zeros(1, 8, 8, 8))
