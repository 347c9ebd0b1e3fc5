"""DenseDepth against tf-keras with the same weights, filters included, and what it refuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import torch

from depthgen.depth.densedepth import DenseDepthEstimator, load_densedepth
from depthgen.depth.densedepth_layout import Layout, parts, read_densedepth
from depthgen.depth.estimator import EstimatorError
from depthgen.depth.weights import WeightsError, digest
from tests.depthgen.depth import keras_oracle
from tests.depthgen.depth.keras_oracle import DENSENET_169, DENSENET_201, SMALL, Variant

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.depthgen.depth.conftest import DenseDepths


@pytest.fixture
def edited(densedepth: DenseDepths, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the original's file with its groups, its config, or both changed."""

    def edit(
        groups: Callable[[h5py.Group], None] | None = None,
        config: Callable[[dict[str, Any]], None] | None = None,
    ) -> Path:
        path = tmp_path / "edited.h5"
        path.write_bytes(densedepth("original")[1].read_bytes())
        with h5py.File(path, "r+") as file:
            if groups:
                groups(file["model_weights"])
            if config:
                described = json.loads(file.attrs["model_config"])
                config({each["name"]: each for each in described["config"]["layers"]} | described)
                file.attrs["model_config"] = json.dumps(described)
        return path

    return edit


def outputs(estimator: DenseDepthEstimator, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The bare network's, without the filters."""
    x = torch.from_numpy(batch).permute(0, 3, 1, 2)
    with torch.inference_mode():
        found: NDArray[np.float32] = estimator.network(x).numpy()
    return found


def labels(estimator: DenseDepthEstimator, batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
    found: NDArray[np.float32] = estimator(torch.from_numpy(batch)).numpy()
    return np.floor(found * 255).astype(np.uint8)


def close(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    """Within 1e-4 of each value; below 0.1, which is a label of 1 many times over, within 1e-5."""
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def apart(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.abs(one.astype(np.int64) - other)


def agree(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> None:
    """But for one level in a thousandth of the pixels."""
    difference = apart(one, other)
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= difference.size / 1000


def as_label(output: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Of the network's output, where the original has its label before it resizes it."""
    return np.floor(np.clip(1000 / output, 10, 1000) / 1000 * 255).astype(np.uint8)


@pytest.mark.parametrize("name", SMALL)
def test_float32_output_is_tf_keras(densedepth: DenseDepths, name: str) -> None:
    model, path = densedepth(name)
    batch = keras_oracle.pictures(3, (64, 96), 9)
    wanted = keras_oracle.predict(model, batch)
    assert abs(wanted.mean() - keras_oracle.MEAN) < 0.5
    close(outputs(load_densedepth(path), batch), wanted)


@pytest.mark.parametrize("name", ["original", "later"])
def test_labels_are_the_originals_resizes_included(densedepth: DenseDepths, name: str) -> None:
    model, path = densedepth(name)
    batch = keras_oracle.pictures(2, (200, 200), 5)
    agree(labels(load_densedepth(path), batch), keras_oracle.labels(model, batch))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "parameters", "arrays", "whole"),
    [
        (Variant(DENSENET_169), 42_816_089, 864, True),
        (Variant(DENSENET_169, half=True, original=False), None, 864, False),
        (Variant(DENSENET_201), None, 1024, False),
    ],
    ids=["nyu", "later", "201"],
)
def test_the_full_network_is_tf_keras(
    variant: Variant, parameters: int | None, arrays: int, whole: bool, tmp_path: Path
) -> None:
    """whole: with the resizes to 640 × 480 and back, which are the same for every variant."""
    model = keras_oracle.build(variant, count=2, size=(128, 160))
    assert parameters in (None, model.count_params())
    path = keras_oracle.save(model, tmp_path / "full.h5")
    read = read_densedepth(path).arrays.values()
    assert sum(array.numel() for array in read) == model.count_params()
    assert len(read) == len(model.get_weights()) == arrays
    estimator = load_densedepth(path)
    small = keras_oracle.pictures(1, (192, 192), 6)
    found, wanted = outputs(estimator, small), keras_oracle.predict(model, small)
    close(found, wanted)
    agree(as_label(found), as_label(wanted))
    if whole:
        batch = keras_oracle.pictures(1, (200, 200), 6)
        agree(labels(estimator, batch), keras_oracle.labels(model, batch))


def test_the_originals_layout_has_its_published_numbers() -> None:
    layout = Layout(DENSENET_169, 1664, leaky_twice=False, align_corners=True, epsilon=1.001e-5)
    arrays = [
        size
        for part in parts(layout)
        for size in [np.prod(part.shape)]
        + [part.shape[0]] * (3 if len(part.shape) == 1 else part.bias)
    ]
    assert (sum(arrays), len(arrays)) == (42_816_089, 864)


def test_a_file_of_weights_alone_is_read_and_what_it_leaves_open_is_said(
    densedepth: DenseDepths, tmp_path: Path
) -> None:
    batch = keras_oracle.pictures(1, (64, 64), 9)
    for name, told in (("original", "aligned corners"), ("later", "half-pixel centres")):
        model, whole = densedepth(name)
        model.save_weights(tmp_path / "alone.h5")
        estimator = load_densedepth(tmp_path / "alone.h5")
        assert told in estimator.assumed
        assert not load_densedepth(whole).assumed
        wanted = keras_oracle.predict(model, batch)
        close(outputs(estimator, batch), wanted)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_pytorch_conversion_gives_the_same(
    densedepth: DenseDepths, tmp_path: Path, prefix: str
) -> None:
    model, path = densedepth("original")
    arrays = read_densedepth(path).arrays
    stem = "encoder.original_model.features."
    assert arrays[f"{stem}denseblock1.denselayer1.norm1.running_var"].shape == (64,)
    assert arrays["decoder.up1.convA.weight"].shape == (46, 92 + 56, 3, 3)
    state = {prefix + name: array for name, array in arrays.items()}
    state[f"{prefix}encoder.original_model.classifier.bias"] = torch.zeros(1000)
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "converted.pt")
    estimator = load_densedepth(tmp_path / "converted.pt")
    assert "aligned corners" in estimator.assumed
    batch = keras_oracle.pictures(1, (64, 64), 9)
    wanted = keras_oracle.predict(model, batch)
    close(outputs(estimator, batch), wanted)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.pop("decoder.up2.convB.bias"), r"no array decoder\.up2\.convB\.bias"),
        (
            lambda s: s.update({"decoder.conv3.bias": torch.zeros(2)}),
            r"decoder\.conv3\.bias is \(2,\), not \(1,\)",
        ),
        (lambda s: s.update({"decoder.up5.convA.bias": torch.zeros(1)}), "DenseDepth has not"),
        (lambda s: s.pop("decoder.conv3.weight"), "it is no DenseDepth"),
    ],
)
def test_a_pytorch_file_that_differs_is_refused_by_name(
    densedepth: DenseDepths,
    tmp_path: Path,
    change: Callable[[dict[str, torch.Tensor]], Any],
    told: str,
) -> None:
    state = dict(read_densedepth(densedepth("original")[1]).arrays)
    change(state)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=told):
        read_densedepth(tmp_path / "w.pt")


def rename(group: h5py.Group, layer: str, before: str, after: str) -> None:
    """Give the arrays of a layer other names, in the attribute and in the tree."""
    inner = group[layer]
    names = list(inner.attrs["weight_names"])
    inner.attrs["weight_names"] = [name.replace(before, after) for name in names]
    for name in names:
        inner.move(name, name.replace(before, after))


def test_suffixes_and_chunked_attributes_change_nothing(
    edited: Callable[..., Path], densedepth: DenseDepths
) -> None:
    def groups(group: h5py.Group) -> None:
        rename(group, "conv1/conv", "conv1/conv/", "conv1/conv_1/")
        names = group.attrs["layer_names"]
        del group.attrs["layer_names"]
        group.attrs["layer_names0"], group.attrs["layer_names1"] = names[:20], names[20:]

    found = read_densedepth(edited(groups)).arrays
    wanted = read_densedepth(densedepth("original")[1]).arrays
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def remove(layer: str, array: str) -> Callable[[h5py.Group], None]:
    def groups(group: h5py.Group) -> None:
        names = group[layer].attrs["weight_names"]
        group[layer].attrs["weight_names"] = [name for name in names if not name.endswith(array)]

    return groups


def replace(layer: str, array: str, values: NDArray[Any]) -> Callable[[h5py.Group], None]:
    def groups(group: h5py.Group) -> None:
        del group[layer][f"{layer}/{array}"]
        group[layer][f"{layer}/{array}"] = values

    return groups


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        (remove("conv3_block2_1_bn", "gamma:0"), "no array conv3_block2_1_bn/gamma"),
        (
            replace("up1_convB", "bias:0", np.zeros(45, np.float32)),
            r"up1_convB/bias is \(45,\), not \(46,\)",
        ),
        (
            replace("bn", "beta:0", np.full(92, np.nan, np.float32)),
            "bn/beta:0 has values that are not finite",
        ),
    ],
)
def test_an_array_that_is_missing_or_wrong_is_refused_by_name(
    edited: Callable[..., Path], groups: Callable[[h5py.Group], None], told: str
) -> None:
    path = edited(groups)
    with pytest.raises(WeightsError, match=told) as refused:
        load_densedepth(path)
    assert str(path) in str(refused.value)


def setting(layer: str, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda named: named[layer]["config"].update({key: value})


def become_a_lambda(named: dict[str, Any]) -> None:
    named["conv2_block1_0_relu"]["class_name"] = "Lambda"


def add_a_layer(named: dict[str, Any]) -> None:
    extra = json.loads(json.dumps(named["conv1/relu"]).replace("conv1/relu", "extra"))
    named["config"]["layers"].append(extra)


def feed_itself(named: dict[str, Any]) -> None:
    named["conv2_block1_concat"]["inbound_nodes"][0][0][0] = "conv2_block1_concat"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (become_a_lambda, "layer conv2_block1_0_relu of class Lambda.* is not run"),
        (add_a_layer, "layer extra, which DenseDepth has not|has one Activation"),
        (feed_itself, "after conv2_block1_1_conv "),
        (setting("conv1/relu", "activation", "elu"), "conv1/relu has activation elu"),
        (setting("up1_convA", "activation", "relu"), "up1_convA has activation relu"),
        (setting("up2_convA", "padding", "valid"), "up2_convA has padding valid"),
        (setting("leaky_re_lu", "alpha", 0.3), "leaky_re_lu has a slope of 0.3"),
        (setting("bn", "epsilon", 1e-3), "differ in epsilon"),
        (setting("up3_upsampling2d", "size", [4, 4]), "up3_upsampling2d has size"),
        (lambda named: named["config"].pop("layers"), "not that of a Keras 2 model"),
        (
            lambda named: named["config"].update({"output_layers": [["up4_convB", 0, 0]]}),
            "its output is up4_convB",
        ),
    ],
)
def test_a_config_that_is_not_densedepth_is_refused_by_the_layers_name(
    edited: Callable[..., Path], config: Callable[[dict[str, Any]], None], told: str
) -> None:
    with pytest.raises(WeightsError, match=told):
        load_densedepth(edited(config=config))


def test_epsilon_is_the_files_own(edited: Callable[..., Path]) -> None:
    def config(named: dict[str, Any]) -> None:
        for layer in named["config"]["layers"]:
            if layer["class_name"] == "BatchNormalization":
                layer["config"]["epsilon"] = 0.5

    assert read_densedepth(edited(config=config)).layout.epsilon == 0.5


@pytest.mark.parametrize(("precision", "share"), [("bf16", 0.95), ("fp16", 0.99)])
def test_labels_in_half_precision_are_mostly_within_a_grey_level(
    densedepth: DenseDepths, precision: Any, share: float
) -> None:
    _, path = densedepth("original")
    batch = keras_oracle.pictures(1, (200, 200), 5)
    exact = labels(load_densedepth(path), batch)
    found = load_densedepth(path, precision=precision)(torch.from_numpy(batch))
    assert found.dtype == torch.float32
    rough = np.floor(found.numpy() * 255).astype(np.uint8)
    assert np.mean(apart(rough, exact) <= 1) >= share


def test_a_label_does_not_depend_on_the_batch(densedepth: DenseDepths) -> None:
    estimator = load_densedepth(densedepth("original")[1])
    batch = keras_oracle.pictures(3, (96, 96), 5)
    together = labels(estimator, batch)
    alone = np.concatenate([labels(estimator, each[None]) for each in batch])
    assert np.array_equal(together, labels(estimator, batch))
    agree(together, alone)


@pytest.mark.parametrize(("out", "label"), [(0.5, 1.0), (4.0, 0.25), (500.0, 0.01), (-1.0, 0.01)])
def test_the_output_is_1000_over_depth_clipped(
    densedepth: DenseDepths, out: float, label: float
) -> None:
    estimator = constant(densedepth, out)
    found = estimator(torch.zeros(1, 50, 60, 3, dtype=torch.uint8))
    assert found.shape == (1, 50, 60)
    assert torch.allclose(found, torch.tensor(label))


def test_a_value_that_is_not_finite_is_not_clipped_into_a_label(
    densedepth: DenseDepths,
) -> None:
    assert (
        constant(densedepth, float("nan"))(torch.zeros(1, 8, 8, 3, dtype=torch.uint8)).isnan().all()
    )


def constant(densedepth: DenseDepths, value: float) -> DenseDepthEstimator:
    """An estimator whose network gives one value everywhere."""
    estimator = load_densedepth(densedepth("original")[1])
    estimator.network.conv3.taps.weight.zero_()
    estimator.network.conv3.bias.fill_(value)
    return estimator


def test_it_says_what_it_is(densedepth: DenseDepths) -> None:
    _, path = densedepth("original")
    estimator = load_densedepth(path, precision="bf16")
    assert (estimator.model, estimator.quantity) == ("densedepth", "depth_m")
    assert (estimator.full_scale, estimator.precision) == (1.0, "bf16")
    assert estimator.digest == digest(path)
    with pytest.raises(EstimatorError, match="float32, bf16, fp16"):
        load_densedepth(path, precision="int8")  # type: ignore[arg-type]
