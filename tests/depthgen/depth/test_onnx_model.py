"""ONNX networks made here, a 1 × 1 convolution whose result a formula gives."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from depthgen.depth.estimator import EstimatorError
from depthgen.depth.onnx_model import load_onnx
from depthgen.errors import OptionsError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

CPU = torch.device("cpu")
WEIGHTS = np.array([0.25, 0.5, 0.125], np.float32)
BIAS = 2.0
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RELATIVE = {"meaning": "depth_relative"}
INPUT = 16


def pictures(count: int = 3, height: int = INPUT, width: int = INPUT) -> torch.Tensor:
    random = np.random.default_rng(0)
    return torch.from_numpy(random.integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def formula(x: NDArray[Any]) -> NDArray[np.float64]:
    """(N, H, W, 3) as the network gets it → (N, H, W)."""
    return x.astype(np.float64) @ WEIGHTS.astype(np.float64) + BIAS


def network(
    path: Path,
    shape: Sequence[Any] = ("n", 3, "h", "w"),
    kind: str = "FLOAT",
    nhwc: bool = False,
    squeezed: bool = False,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write the network; kind: the type of its input, and of its output but for UINT8."""
    from onnx import TensorProto, helper, numpy_helper

    given = getattr(TensorProto, kind)
    inner = TensorProto.FLOAT if kind == "UINT8" else given
    dtype = np.float16 if kind == "FLOAT16" else np.float32
    nodes, x = [], "picture"
    if kind == "UINT8":
        nodes.append(helper.make_node("Cast", [x], ["float"], to=inner))
        x = "float"
    if nhwc:
        nodes.append(helper.make_node("Transpose", [x], ["nchw"], perm=[0, 3, 1, 2]))
        x = "nchw"
    result = "conv" if nhwc or squeezed else "depth"
    nodes.append(helper.make_node("Conv", [x, "weights", "bias"], [result]))
    if squeezed:
        nodes.append(helper.make_node("Squeeze", [result, "axis"], ["depth"]))
    elif nhwc:
        nodes.append(helper.make_node("Transpose", [result], ["depth"], perm=[0, 2, 3, 1]))
    constants = {
        "weights": WEIGHTS.reshape(1, 3, 1, 1).astype(dtype),
        "bias": np.array([BIAS], dtype),
        "axis": np.array([1]),
    }
    batch, *rest = shape
    sides = list(rest[:2] if nhwc else rest[1:])
    ending = sides if squeezed else [*sides, 1] if nhwc else [1, *sides]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("picture", given, shape)],
        [helper.make_tensor_value_info("depth", inner, [batch, *ending])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return write(path, graph, metadata)


def write(path: Path, graph: Any, metadata: dict[str, str] | None = None) -> Path:
    from onnx import helper

    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, metadata or {})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("squeezed", [False, True])
@pytest.mark.parametrize("nhwc", [False, True])
@pytest.mark.parametrize("batch", ["n", 1, 2])
@pytest.mark.parametrize("fixed", [False, True])
def test_every_layout_gives_what_the_formula_gives(
    tmp_path: Path, squeezed: bool, nhwc: bool, batch: int | str, fixed: bool
) -> None:
    sides: list[int | str] = [INPUT, INPUT] if fixed else ["h", "w"]
    shape: list[Any] = [batch, *sides, 3] if nhwc else [batch, 3, *sides]
    path = network(tmp_path / "net.onnx", shape, nhwc=nhwc, squeezed=squeezed)
    estimator = load_onnx(path, CPU, RELATIVE | {"size": (INPUT, INPUT)})
    values = estimator(pictures())
    assert values.dtype == torch.float32
    np.testing.assert_allclose(values, formula(pictures().numpy() / 255), rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "precision", "close"), [("FLOAT", "float32", 1e-6), ("FLOAT16", "fp16", 2e-3)]
)
def test_pixels_are_normalised_in_the_type_of_the_file(
    tmp_path: Path, kind: str, precision: str, close: float
) -> None:
    path = network(tmp_path / "net.onnx", kind=kind)
    given = RELATIVE | {"mean": MEAN, "std": STD, "multiple": INPUT}
    estimator = load_onnx(path, CPU, given)
    assert estimator.precision == precision
    wanted = formula((pictures().numpy() / 255 - MEAN) / STD)
    np.testing.assert_allclose(estimator(pictures()), wanted, rtol=close, atol=close)


def test_a_network_of_bytes_gets_bytes(tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx", kind="UINT8", nhwc=True, shape=["n", INPUT, INPUT, 3])
    np.testing.assert_allclose(
        load_onnx(path, CPU, RELATIVE)(pictures()), formula(pictures().numpy()), rtol=1e-6
    )
    with pytest.raises(OptionsError, match="takes pixels as they are"):
        load_onnx(path, CPU, RELATIVE | {"mean": MEAN})


def test_pictures_are_resized_by_pillow_and_depth_by_scikit_image(tmp_path: Path) -> None:
    transform = pytest.importorskip("skimage.transform")
    path = network(tmp_path / "net.onnx", [1, 3, 24, 40])
    shown = pictures(2, 20, 30)
    resized = [
        np.asarray(Image.fromarray(it.numpy()).resize((40, 24), Image.Resampling.BICUBIC))
        for it in shown
    ]
    wanted = [
        transform.resize(it, (20, 30), order=1, mode="reflect", anti_aliasing=True)
        for it in formula(np.stack(resized) / 255)
    ]
    np.testing.assert_allclose(load_onnx(path, CPU, RELATIVE)(shown), wanted, rtol=1e-4)


def test_an_open_size_is_the_pictures_own_in_whole_steps(tmp_path: Path) -> None:
    estimator = load_onnx(network(tmp_path / "net.onnx"), CPU, RELATIVE | {"multiple": 14})
    assert estimator.convention.input_size(100, 6, (None, None)) == (98, 14)
    assert estimator(pictures(1, 100, 6)).shape == (1, 100, 6)


def test_the_metadata_say_how_to_feed_and_read(tmp_path: Path) -> None:
    said = {
        "depthgen.quantity": "depth_m",
        "depthgen.size": "16x16",
        "depthgen.scale": "0.5",
        "depthgen.mean": "1, 2, 3",
        "depthgen.std": "2,2,2",
        "depthgen.layout": "NCHW",
        "depthgen.output": "depth",
        "author": "somebody",
    }
    path = network(tmp_path / "room.onnx", metadata=said)
    estimator = load_onnx(path, CPU)
    assert (estimator.model, estimator.quantity, estimator.full_scale) == ("room", "depth_m", 1.0)
    wanted = formula((pictures().numpy() * 0.5 - [1, 2, 3]) / 2) / 10
    np.testing.assert_allclose(estimator(pictures()), wanted, rtol=1e-6)
    given = load_onnx(path, CPU, {"meaning": "inverse_depth_relative", "std": (1, 1, 1)})
    assert (given.quantity, given.full_scale) == ("inverse_depth_relative", None)
    wanted = formula(pictures().numpy() * 0.5 - [1, 2, 3])
    np.testing.assert_allclose(given(pictures()), wanted, rtol=1e-6)


def test_the_convention_of_densedepth_is_inverted_and_clipped(tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx")
    given = {"meaning": "densedepth", "size": (INPUT, INPUT), "scale": 1.0}
    estimator = load_onnx(path, CPU, given)
    wanted = np.clip(1000 / formula(pictures().numpy()), 10, 1000) / 1000
    assert len(np.unique(wanted)) > 2
    assert (estimator.quantity, estimator.full_scale) == ("depth_m", 1.0)
    np.testing.assert_allclose(estimator(pictures()), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("depthgen.size", "big", "depthgen.size = 'big'"),
        ("depthgen.sise", "8x8", "unknown metadata key depthgen.sise"),
        ("depthgen.quantity", "metres", "must be one of depth_m"),
        ("depthgen.std", "0,1,1", "above 0"),
        ("depthgen.mean", "1", "mean must be 3 numbers"),
        ("depthgen.layout", "chwn", "nchw or nhwc"),
        ("depthgen.layout", "nhwc", "which is not nhwc"),
        ("depthgen.output", "normals", "no output normals, only depth"),
    ],
)
def test_metadata_that_make_no_sense_are_refused(
    tmp_path: Path, key: str, text: str, words: str
) -> None:
    shape: list[Any] = ["n", 3, INPUT, INPUT]
    metadata = {"depthgen.quantity": "depth_m"} | {key: text}
    path = network(tmp_path / "net.onnx", shape, metadata=metadata)
    with pytest.raises((EstimatorError, OptionsError), match=words):
        load_onnx(path, CPU)


def test_what_the_numbers_mean_is_never_guessed(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match=r"net\.onnx does not say what .*: give --quantity with"):
        load_onnx(network(tmp_path / "net.onnx"), CPU)


def test_another_size_than_the_file_takes_is_refused(tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx", [1, 3, 24, 40])
    with pytest.raises(OptionsError, match="takes a side of 40 pixels and no other; size is 32"):
        load_onnx(path, CPU, RELATIVE | {"size": (24, 32)})


def test_two_inputs_are_refused_by_name(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    both = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 8, 8])
        for name in ("left", "right")
    ]
    out = helper.make_tensor_value_info("depth", TensorProto.FLOAT, ["n", 3, 8, 8])
    node = helper.make_node("Add", ["left", "right"], ["depth"])
    path = write(tmp_path / "two.onnx", helper.make_graph([node], "net", both, [out]))
    with pytest.raises(EstimatorError, match=r"takes 2 inputs \(left, right\)"):
        load_onnx(path, CPU, RELATIVE)


def test_the_first_output_that_may_be_depth_is_taken_or_the_named_one(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    def info(name: str, channels: int) -> Any:
        shape: list[Any] = ["n", channels, INPUT, INPUT]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes = [
        helper.make_node("Identity", ["picture"], ["same"]),
        helper.make_node("ReduceMean", ["picture"], ["mean"], axes=[1]),
        helper.make_node("ReduceMax", ["picture"], ["max"], axes=[1]),
    ]
    outputs = [info("same", 3), info("mean", 1), info("max", 1)]
    path = write(
        tmp_path / "net.onnx", helper.make_graph(nodes, "net", [info("picture", 3)], outputs)
    )
    shown = pictures().numpy() / 255
    first, named = (
        load_onnx(path, CPU, RELATIVE),
        load_onnx(path, CPU, RELATIVE | {"output": "max"}),
    )
    np.testing.assert_allclose(first(pictures()), shown.mean(axis=3), rtol=1e-6)
    np.testing.assert_allclose(named(pictures()), shown.max(axis=3), rtol=1e-6)
    unfit = load_onnx(path, CPU, RELATIVE | {"output": "same"})
    with pytest.raises(EstimatorError, match="gives 3 × 3 × 16 × 16, not one depth map a picture"):
        unfit(pictures())


def test_a_layout_that_is_not_said_must_be_given(tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx", ["n", "c", "h", "w"])
    with pytest.raises(OptionsError, match=r"nchw or nhwc; .* metadata, as depthgen\.layout"):
        load_onnx(path, CPU, RELATIVE)
    told = load_onnx(path, CPU, RELATIVE | {"layout": "nchw", "size": (INPUT, INPUT)})
    np.testing.assert_allclose(told(pictures()), formula(pictures().numpy() / 255), rtol=1e-6)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises(EstimatorError, match=r"net\.onnx cannot be read: No such file"):
        load_onnx(path, CPU, RELATIVE)
    path.write_bytes(b"\x89PNG\r\n\x1a\n and so on")
    with pytest.raises(EstimatorError, match=r"net\.onnx is not an ONNX file"):
        load_onnx(path, CPU, RELATIVE)
    path.write_bytes(b"")
    with pytest.raises(EstimatorError, match=r"net\.onnx cannot be loaded"):
        load_onnx(path, CPU, RELATIVE)


def test_weights_in_another_file_count_and_are_named_when_missing(tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx")
    alone = load_onnx(path, CPU, RELATIVE).digest
    assert alone == hashlib.sha256(path.read_bytes()).hexdigest()
    with_data = {"save_as_external_data": True, "location": "net.data", "size_threshold": 0}
    onnx.save(onnx.load(path), path, **with_data)
    first = load_onnx(path, CPU, RELATIVE | {"size": (INPUT, INPUT)})
    np.testing.assert_allclose(first(pictures()), formula(pictures().numpy() / 255), rtol=1e-6)
    data = tmp_path / "net.data"
    data.write_bytes(data.read_bytes()[:-1] + b"\x01")
    assert load_onnx(path, CPU, RELATIVE).digest != first.digest
    data.unlink()
    with pytest.raises(EstimatorError, match=r"keeps its weights in net\.data, which is missing"):
        load_onnx(path, CPU, RELATIVE)


def test_weights_outside_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = network(tmp_path / "in/net.onnx")
    model = onnx.load(path)
    onnx.external_data_helper.convert_model_to_external_data(
        model, location="../secret", size_threshold=0
    )
    path.write_bytes(model.SerializeToString())
    with pytest.raises(EstimatorError, match=r"outside its folder, in \.\./secret; refused"):
        load_onnx(path, CPU, RELATIVE)


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx")
    with pytest.raises(EstimatorError, match="run on cpu or cuda, not on mps"):
        load_onnx(path, torch.device("mps"), RELATIVE)


def test_not_a_number_passes_through_and_results_repeat(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    shape: list[Any] = ["n", 3, INPUT, INPUT]
    nodes = [
        helper.make_node("ReduceMean", ["picture"], ["mean"], axes=[1]),
        helper.make_node("Log", ["mean"], ["depth"]),
    ]
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)
    depth = helper.make_tensor_value_info("depth", TensorProto.FLOAT, ["n", 1, INPUT, INPUT])
    path = write(tmp_path / "log.onnx", helper.make_graph(nodes, "net", [picture], [depth]))
    estimator = load_onnx(path, CPU, RELATIVE | {"mean": (0.5, 0.5, 0.5)})
    values = estimator(pictures())
    assert values.isnan().any()
    assert torch.equal(values.nan_to_num(), estimator(pictures()).nan_to_num())


class Fails:
    """A session that cannot run, for a reason of its own."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def run(self, *_: object) -> None:
        raise RuntimeError(self.reason)


def test_too_large_a_batch_is_told_from_a_network_that_fails(tmp_path: Path) -> None:
    whole = load_onnx(network(tmp_path / "net.onnx"), CPU, RELATIVE)
    with pytest.raises(torch.OutOfMemoryError):
        replace(whole, session=Fails("Failed to allocate memory for requested buffer"))(pictures())
    bad = replace(whole, session=Fails("bad node\nand a page of it"))
    with pytest.raises(EstimatorError) as caught:
        bad(pictures())
    told = "net cannot be run on 3 × 3 × 32 × 32: bad node"
    assert str(caught.value) == f"{told}; try --forward-batch 1"
    with pytest.raises(EstimatorError, match=r"cannot be run on 1 × 3 × 32 × 32: bad node$"):
        bad(pictures(1))
    pairs = load_onnx(network(tmp_path / "net.onnx", [2, 3, 32, 32]), CPU, RELATIVE)
    with pytest.raises(EstimatorError, match=r"bad node$"):  # one at a time would not be fewer
        replace(pairs, session=Fails("bad node"))(pictures())


def test_a_library_that_is_not_installed_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("depthgen.depth.extras.find_spec", lambda name: None)
    with pytest.raises(EstimatorError) as caught:
        load_onnx(tmp_path / "net.onnx", CPU, RELATIVE)
    assert str(caught.value) == (
        "an ONNX network needs onnx and onnxruntime, not installed here; type "
        "`pip install 'depthgen-vathos[onnx]'`"
    )
