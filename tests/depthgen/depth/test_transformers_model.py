"""Networks of `transformers`, against the library's own processor, network and post-processing."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from depthgen.depth.estimator import EstimatorError
from depthgen.depth.transformers_model import load_transformers, quantity_of
from tests.depthgen.depth.small_networks import BUILDERS, SETTINGS, save, write_settings

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("transformers")

CPU = torch.device("cpu")
FAMILIES = list(SETTINGS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a tiny network of each family, its settings as published."""
    return {
        family: save(build(), family, tmp_path_factory.mktemp(family))
        for family, build in BUILDERS.items()
    }


@pytest.fixture(scope="module")
def small(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same networks at a size that takes less time."""
    sizes = {"depth_anything": 112, "dpt": 128, "zoedepth": 128, "zoedepth_two_heads": 128}
    copies = {}
    for family, folder in folders.items():
        copies[family] = copy(folder, tmp_path_factory.mktemp(family))
        side = sizes.get(family)
        settings = {"size": {"height": side, "width": side}} if side else {}
        write_settings(copies[family], SETTINGS[family] | settings)
    return copies


def copy(folder: Path, to: Path) -> Path:
    return shutil.copytree(folder, to, dirs_exist_ok=True)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def photographs(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Smooth shapes with hard edges, black and white among them, so that filters overshoot."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 9, 12, 3), dtype=np.uint8)
    pictures = [
        np.asarray(Image.fromarray(picture).resize((width, height), how))
        for picture, how in zip(
            coarse, [Image.Resampling.BICUBIC, Image.Resampling.NEAREST] * count, strict=False
        )
    ]
    return torch.from_numpy(np.stack(pictures).copy())


def original(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation
    from transformers.utils import logging

    logging.disable_progress_bar()
    network = AutoModelForDepthEstimation.from_pretrained(folder).eval()
    logging.enable_progress_bar()
    return AutoImageProcessor.from_pretrained(folder, backend="pil"), network


def prepared_by(processor: Any, picture: torch.Tensor) -> torch.Tensor:
    return processor(images=Image.fromarray(picture.numpy()), return_tensors="pt").pixel_values


def restored_by(processor: Any, outputs: Any, size: tuple[int, int]) -> torch.Tensor:
    sizes: dict[str, Any] = {"target_sizes": [size]}
    if "ZoeDepth" in type(processor).__name__:
        sizes["source_sizes"] = [size]
    return processor.post_process_depth_estimation(outputs, **sizes)[0]["predicted_depth"]


@pytest.fixture
def _torchvision_resize(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one function of torchvision that ZoeDepth's own post-processing calls."""
    from transformers.models.zoedepth import image_processing_pil_zoedepth as module

    def resize(depth: torch.Tensor, size: list[int], **_: Any) -> torch.Tensor:
        return F.interpolate(depth[None], size, mode="bicubic", align_corners=False)[0]

    torchvision = SimpleNamespace(
        resize=resize, InterpolationMode=SimpleNamespace(BICUBIC="bicubic")
    )
    monkeypatch.setattr(module, "tvF", torchvision, raising=False)


@pytest.mark.parametrize("size", [(192, 192), (130, 200)])
@pytest.mark.parametrize("family", ["depth_anything", "dpt", "glpn", "zoedepth"])
def test_pictures_are_prepared_as_the_librarys_processor_does(
    folders: dict[str, Path], family: str, size: tuple[int, int]
) -> None:
    pictures = photographs(2, *size)
    ours = load_transformers(str(folders[family]), CPU).processor
    theirs, _ = original(folders[family])
    prepared = ours.prepare(pictures)
    wanted = torch.cat([prepared_by(theirs, picture) for picture in pictures])
    assert prepared.shape == wanted.shape
    grey_level = 1 / 255 / (max(theirs.image_std) if theirs.do_normalize else 1)
    levels = (prepared - wanted).abs() / grey_level
    if family == "zoedepth":  # nothing is rounded there
        assert levels.max() < 0.01
    else:
        assert levels.max() < 2.3  # the channels' std are not quite the same
        assert (levels > 0.5).float().mean() < 0.03


@pytest.mark.usefixtures("_torchvision_resize")
@pytest.mark.parametrize("family", FAMILIES)
def test_depth_equals_the_librarys_own(small: dict[str, Path], family: str) -> None:
    pictures = photographs(2, 120, 150)
    estimator = load_transformers(str(small[family]), CPU)
    processor, network = original(small[family])
    with torch.inference_mode():
        wanted = torch.stack(
            [
                restored_by(processor, network(prepared_by(processor, picture)), (120, 150))
                for picture in pictures
            ]
        )
    if estimator.quantity == "depth_m":
        wanted = wanted / 10
    depth = estimator(pictures)
    assert depth.shape == (2, 120, 150)
    assert depth.dtype == torch.float32
    spread = wanted.std()
    assert spread > 0.05 * wanted.abs().mean(), "a flat oracle would show nothing"
    assert (depth - wanted).abs().max() < 0.05 * spread
    assert (depth - wanted).abs().mean() < 0.005 * spread


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pictures_depth_does_not_depend_on_its_neighbours(
    small: dict[str, Path], family: str
) -> None:
    pictures = photographs(3, 64, 96, seed=2)
    estimator = load_transformers(str(small[family]), CPU)
    together = estimator(pictures)
    alone = torch.cat([estimator(picture[None]) for picture in pictures])
    assert torch.equal(together, estimator(pictures))
    assert (together - alone).abs().max() < 0.005 * together.std()


def test_the_votes_of_a_batch_do_not_choose_the_head_for_all(small: dict[str, Path]) -> None:
    estimator = load_transformers(str(small["zoedepth_two_heads"]), CPU)
    pictures = photographs(2, 64, 96)
    inputs = estimator.processor.prepare(pictures)
    network: Any = estimator.network
    with torch.no_grad():
        # Half-way between the two pictures, so that each prefers another head.
        logits = network(pixel_values=inputs).domain_logits
        network.metric_head.mlp_classifier.linear2.bias -= logits.mean(dim=0)
        logits = network(pixel_values=inputs).domain_logits
        assert len(logits.argmax(dim=1).unique()) == 2
        together = network(pixel_values=inputs).predicted_depth
        alone = torch.cat([network(pixel_values=it[None]).predicted_depth for it in inputs])
    assert not torch.allclose(together, alone, rtol=0.01)
    wanted = estimator.processor.restore(alone, 64, 96) / 10
    assert torch.allclose(estimator(pictures), wanted, rtol=1e-4)


@pytest.mark.parametrize(("precision", "close"), [("bf16", 0.3), ("fp16", 0.05)])
def test_half_precision_is_close_and_comes_back_as_float32(
    small: dict[str, Path], precision: Any, close: float
) -> None:
    pictures = photographs(2, 64, 96)
    exact = load_transformers(str(small["depth_anything"]), CPU)(pictures)
    rough = load_transformers(str(small["depth_anything"]), CPU, precision)(pictures)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert (rough - exact).abs().mean() < close * exact.std()


def test_each_family_says_what_its_numbers_are(small: dict[str, Path]) -> None:
    found = {family: load_transformers(str(folder), CPU) for family, folder in small.items()}
    assert {family: (it.quantity, it.full_scale) for family, it in found.items()} == {
        "depth_anything": ("inverse_depth_relative", None),
        "dpt": ("inverse_depth_relative", None),
        "glpn": ("depth_m", 1.0),
        "zoedepth": ("depth_m", 1.0),
        "zoedepth_two_heads": ("depth_m", 1.0),
    }


def test_the_metric_variant_of_depth_anything_gives_metres(
    small: dict[str, Path], tmp_path: Path
) -> None:
    folder = copy(small["depth_anything"], tmp_path)
    edit_config(folder, depth_estimation_type="metric", max_depth=20)
    estimator = load_transformers(str(folder), CPU)
    depth = estimator(photographs(1, 56, 56))
    assert (estimator.quantity, estimator.full_scale) == ("depth_m", 1.0)
    assert depth.min() > 0
    assert 1.9 < depth.max() < 2.2  # 20 m / 10, and a little that the bicubic filter adds


def test_dpt_on_dinov2_gives_metres_and_the_user_may_say_otherwise(
    small: dict[str, Path],
) -> None:
    backbone = SimpleNamespace(model_type="dinov2")
    assert quantity_of(SimpleNamespace(model_type="dpt", backbone_config=backbone)) == "depth_m"
    told = load_transformers(str(small["glpn"]), CPU, quantity="depth_relative")
    assert (told.quantity, told.full_scale) == ("depth_relative", None)
    pictures = photographs(1, 64, 64)
    assert torch.equal(told(pictures) / 10, load_transformers(str(small["glpn"]), CPU)(pictures))


def test_a_network_in_the_current_folder_has_the_folders_name(
    small: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small["glpn"])
    assert load_transformers(".", CPU).model == small["glpn"].name


def test_not_a_number_passes_through(small: dict[str, Path]) -> None:
    estimator = load_transformers(str(small["glpn"]), CPU)
    with torch.no_grad():
        next(iter(estimator.network.parameters())).fill_(float("nan"))
    assert estimator(photographs(1, 64, 64)).isnan().any()


def test_the_digest_changes_with_weights_and_settings(
    small: dict[str, Path], tmp_path: Path
) -> None:
    first = load_transformers(str(small["glpn"]), CPU).digest
    same = copy(small["glpn"], tmp_path / "same")
    assert load_transformers(str(same), CPU).digest == first
    write_settings(same, SETTINGS["glpn"] | {"size_divisor": 64})
    assert load_transformers(str(same), CPU).digest != first
    other = copy(small["glpn"], tmp_path / "other")
    change_weights(other, lambda tensors: {name: 2 * it for name, it in tensors.items()})
    assert load_transformers(str(other), CPU).digest != first


def change_weights(folder: Path, change: Any) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def test_weights_that_are_never_used_may_be_missing(small: dict[str, Path], tmp_path: Path) -> None:
    """Intel/dpt-large lacks them."""
    folder = copy(small["dpt"], tmp_path)
    unused = "fusion_stage.layers.0.residual_layer1."
    before = load_transformers(str(folder), CPU)(photographs(1, 64, 64))
    change_weights(folder, lambda all_: {k: v for k, v in all_.items() if unused not in k})
    assert torch.equal(load_transformers(str(folder), CPU)(photographs(1, 64, 64)), before)


def drop_last(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: it for name, it in tensors.items() if name != max(tensors)}


def test_weights_that_are_missing_are_named(small: dict[str, Path], tmp_path: Path) -> None:
    folder = copy(small["glpn"], tmp_path)
    change_weights(folder, drop_last)
    with pytest.raises(EstimatorError, match=r"lacks 1 of its weights, head\."):
        load_transformers(str(folder), CPU)


def test_weights_of_another_shape_are_refused(small: dict[str, Path], tmp_path: Path) -> None:
    folder = copy(small["glpn"], tmp_path)
    edit_config(folder, decoder_hidden_size=16)
    with pytest.raises(EstimatorError, match="cannot be loaded"):
        load_transformers(str(folder), CPU)


def test_code_inside_a_checkpoint_is_not_run(small: dict[str, Path], tmp_path: Path) -> None:
    folder = copy(small["glpn"], tmp_path / "net")
    (folder / "model.safetensors").unlink()
    trace = tmp_path / "trace"
    torch.save({"weight": Touches(trace)}, folder / "pytorch_model.bin")
    with pytest.raises(EstimatorError, match="cannot be loaded"):
        load_transformers(str(folder), CPU)
    assert not trace.exists()


class Touches:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (self.path.touch, ())


def test_code_beside_a_network_is_not_run(small: dict[str, Path], tmp_path: Path) -> None:
    folder = copy(small["glpn"], tmp_path / "net")
    trace = tmp_path / "trace"
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass Net: pass\nclass Conf: pass")
    edit_config(
        folder,
        model_type="evil",
        auto_map={"AutoConfig": "evil.Conf", "AutoModelForDepthEstimation": "evil.Net"},
    )
    with pytest.raises(EstimatorError, match="cannot be loaded"):
        load_transformers(str(folder), CPU)
    assert not trace.exists()


def test_a_plain_checkpoint_of_arrays_is_read(small: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = copy(small["glpn"], tmp_path)
    before = load_transformers(str(folder), CPU)(photographs(1, 64, 64))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert torch.equal(load_transformers(str(folder), CPU)(photographs(1, 64, 64)), before)


def test_a_network_of_another_family_is_refused(small: dict[str, Path], tmp_path: Path) -> None:
    folder = copy(small["glpn"], tmp_path)
    edit_config(folder, model_type="depth_pro")
    with pytest.raises(EstimatorError, match=r"family depth_pro; known are depth_anything, dpt"):
        load_transformers(str(folder), CPU)


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("dpt", {"do_pad": True, "size_divisor": 32}, "pads or crops"),
        ("dpt", {"resample": 1}, "resizes with filter 1"),
        ("glpn", {"image_processor_type": "NoSuchProcessor"}, "preprocessor_config.json"),
    ],
)
def test_settings_that_are_not_known_are_refused(
    small: dict[str, Path], tmp_path: Path, family: str, changes: dict[str, Any], words: str
) -> None:
    folder = copy(small[family], tmp_path)
    write_settings(folder, SETTINGS[family] | changes)
    with pytest.raises(EstimatorError, match=words):
        load_transformers(str(folder), CPU)


def test_a_folder_without_settings_or_weights_says_which(
    small: dict[str, Path], tmp_path: Path
) -> None:
    folder = copy(small["glpn"], tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(EstimatorError, match=r"preprocessor_config\.json is missing"):
        load_transformers(str(folder), CPU)
    (folder / "model.safetensors").unlink()
    with pytest.raises(EstimatorError, match=r"neither model\.safetensors nor"):
        load_transformers(str(folder), CPU)


def test_a_picture_smaller_than_glpn_takes_is_refused(small: dict[str, Path]) -> None:
    with pytest.raises(EstimatorError, match="at least 32 pixels a side, not 64 × 20"):
        load_transformers(str(small["glpn"]), CPU)(photographs(1, 20, 64))
