"""The networks against the original's layer tables, which tests/data keeps as they were printed.

What holds for every network stands in `NetworkTester`; a subclass names the network and its table.
"""

from __future__ import annotations

import copy
import csv
import io
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from vathos.model import ResUNet, ResUNeXt, resunext
from vathos.model.resunet import ResUpBlock

TABLES = Path(__file__).parents[1] / "data"


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


def random_input(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(4), dtype=dtype)


class NetworkTester:
    """What every network keeps; subclasses say which."""

    network: ClassVar[type[nn.Module]]
    table: ClassVar[str]
    rows: ClassVar[int]
    parameters: ClassVar[int]

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls) -> nn.Module:
        torch.manual_seed(3)
        return cls.network().eval().requires_grad_(False)

    def test_every_row_of_the_original_layer_table_holds_at_192(self) -> None:
        table = read_table(TABLES / self.table)
        assert len(table) == self.rows
        # The meta device works out shapes without computing anything.
        with torch.device("meta"):
            assert executed_layers(self.network().eval(), torch.zeros(1, 6, 192, 192)) == table

    def test_parameter_count_is_that_of_the_original(self) -> None:
        with torch.device("meta"):
            parameters = list(self.network().parameters())
        assert sum(p.numel() for p in parameters) == self.parameters
        assert all(p.requires_grad for p in parameters)

    def test_no_convolution_has_a_bias(self, model: nn.Module) -> None:
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        assert convolutions
        assert all(m.bias is None for m in convolutions)

    @pytest.mark.parametrize("size", [(16, 16), (32, 48), (80, 16)])
    def test_any_size_divisible_by_16_gives_depth_and_mask_of_that_size(
        self, model: nn.Module, size: tuple[int, int]
    ) -> None:
        depth_logits, mask_logits = model(random_input(2, 6, *size))
        assert depth_logits.shape == mask_logits.shape == (2, 1, *size)

    @pytest.mark.parametrize(
        ("size", "advice"),
        [((200, 192), "200 x 192: resize or pad it to 208 x 192"), ((0, 8), "16 x 16")],
    )
    def test_another_size_says_what_to_do(
        self, model: nn.Module, size: tuple[int, int], advice: str
    ) -> None:
        with pytest.raises(ValueError, match=advice):
            model(torch.zeros(1, 6, *size))

    @pytest.mark.parametrize("shape", [(1, 3, 32, 32), (6, 32, 32)])
    def test_another_number_of_channels_says_what_the_network_takes(
        self, model: nn.Module, shape: tuple[int, ...]
    ) -> None:
        with pytest.raises(ValueError, match=r"\(N, 6, H, W\)"):
            model(torch.zeros(shape))

    def test_evaluation_repeats_itself_and_does_not_mix_samples(self, model: nn.Module) -> None:
        x = random_input(2, 6, 16, 32)
        for once, again, alone in zip(model(x), model(x), model(x[1:]), strict=True):
            assert torch.equal(once, again)
            torch.testing.assert_close(once[1:], alone, atol=1e-5, rtol=1e-4)

    def test_every_parameter_gets_a_gradient_from_the_two_outputs(self) -> None:
        model = self.network()
        depth_logits, mask_logits = model(random_input(2, 6, 32, 16))
        # Weighted pixel by pixel: a plain sum has no gradient through a BatchNorm.
        (random_input(2, 2, 32, 16) * torch.cat((depth_logits, mask_logits), 1)).sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.any(), name

    def test_the_depth_output_does_not_see_the_mask_decoder(self) -> None:
        model = self.network().eval()
        depth_logits, _ = model(random_input(1, 6, 16, 16))
        depth_logits.sum().backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is None) == name.startswith(("mask_decoder", "mask_head")), name

    def test_a_saved_network_gives_the_same_when_loaded(self, model: nn.Module) -> None:
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        file.seek(0)
        loaded = self.network().eval()
        loaded.load_state_dict(torch.load(file, weights_only=True))
        x = random_input(1, 6, 16, 16)
        for saved, again in zip(model(x), loaded(x), strict=True):
            assert torch.equal(saved, again)

    def test_channels_last_gives_what_contiguous_memory_gives(self, model: nn.Module) -> None:
        exact: Any = copy.deepcopy(model).double()
        x = random_input(1, 6, 32, 16, dtype=torch.float64)
        contiguous = exact(x)
        exact.to(memory_format=torch.channels_last)
        channels_last = exact(x.contiguous(memory_format=torch.channels_last))
        for one, other in zip(contiguous, channels_last, strict=True):
            torch.testing.assert_close(one, other, atol=1e-9, rtol=0)


class TestResUNet(NetworkTester):
    network = ResUNet
    table = "resunet_layers.tsv"
    rows = 162
    parameters = 15_855_712


class TestResUNeXt(NetworkTester):
    network = ResUNeXt
    table = "resunext_layers.tsv"
    rows = 201
    parameters = 16_409_856


def test_an_up_block_refuses_a_dense_map_it_was_not_built_for() -> None:
    block = ResUpBlock(8, 4, skip_channels=8)
    with pytest.raises(ValueError, match="dense_channels"):
        block(torch.zeros(1, 8, 4, 4), torch.zeros(1, 8, 8, 8), torch.zeros(1, 8, 8, 8))


def test_a_grouped_double_convolution_too_narrow_for_its_groups_says_so() -> None:
    with pytest.raises(ValueError, match="at least 6 output channels; 5 leave none"):
        resunext.ResDoubleConv(32, 5)


@pytest.mark.parametrize(("out_channels", "width"), [(6, 32), (16, 64), (384, 2048), (512, 2720)])
def test_the_grouped_convolution_is_as_wide_as_the_output_demands(
    out_channels: int, width: int
) -> None:
    grouped = resunext.ResDoubleConv(8, out_channels)[5]
    assert isinstance(grouped, nn.Conv2d)
    assert (grouped.in_channels, grouped.out_channels, grouped.groups) == (width, width, 32)
