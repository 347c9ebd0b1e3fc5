"""Networks in Keras files: written by Keras 3 and by Keras 2, against those that wrote them."""

from __future__ import annotations

import base64
import hashlib
import json
import marshal
import os
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from depthgen.depth.densedepth import load_densedepth
from depthgen.depth.estimator import EstimatorError
from depthgen.depth.keras_model import load_keras
from depthgen.errors import OptionsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.depthgen.depth.conftest import DenseDepths

os.environ["KERAS_BACKEND"] = "tensorflow"  # read when Keras is imported, and by nothing else
keras = pytest.importorskip("keras")
pytest.importorskip("tensorflow")
h5py = pytest.importorskip("h5py")

# What TensorFlow's variables make NumPy 2 say when Keras saves them.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")

CPU = torch.device("cpu")
RELATIVE = {"meaning": "depth_relative"}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pictures(count: int = 2, height: int = 32, width: int = 64) -> torch.Tensor:
    random = np.random.default_rng(0)
    return torch.from_numpy(random.integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def model(height: int | None = 32, width: int | None = 64) -> Any:
    """A network with a branch, norms that do something, and random weights."""
    layers = keras.layers
    picture = keras.Input((height, width, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(picture)
    x = layers.BatchNormalization()(x)
    half = layers.Conv2D(8, 3, strides=2, padding="same")(layers.Dropout(0.5)(x))
    x = layers.Concatenate()([x, layers.UpSampling2D(2)(half)])
    network = keras.Model(picture, layers.Conv2D(1, 1, activation="softplus")(x))
    random = np.random.default_rng(1)
    network.set_weights(
        [np.abs(random.normal(0.3, 0.2, weight.shape)) for weight in network.get_weights()]
    )
    return network


def saved(network: Any, path: Path) -> Path:
    network.save(path)
    return path


def output(network: Any, batch: NDArray[Any]) -> NDArray[np.float32]:
    """(N, H, W): what the network that was saved gives, not compiled."""
    result: NDArray[np.float32] = network(batch.astype(np.float32), training=False).numpy()[..., 0]
    return result


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_a_file_of_keras_3_gives_what_its_network_gave(tmp_path: Path, ending: str) -> None:
    network = model()
    path = saved(network, tmp_path / f"net{ending}")
    estimator = load_keras(path, CPU, RELATIVE)
    values = estimator(pictures())
    assert values.dtype == torch.float32
    assert torch.equal(values, estimator(pictures()))
    np.testing.assert_allclose(values, output(network, pictures().numpy() / 255), rtol=1e-5)
    assert (estimator.model, estimator.quantity, estimator.full_scale) == (
        "net",
        "depth_relative",
        None,
    )
    assert estimator.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_is_given_decides_how_pictures_are_fed(tmp_path: Path) -> None:
    network = model()
    path = saved(network, tmp_path / "net.keras")
    given = {"meaning": "depth_m", "mean": MEAN, "std": STD}
    estimator = load_keras(path, CPU, given, "mine")
    assert (estimator.model, estimator.quantity, estimator.full_scale) == ("mine", "depth_m", 1.0)
    wanted = output(network, (pictures().numpy() / 255 - MEAN) / STD) / 10
    np.testing.assert_allclose(estimator(pictures()), wanted, rtol=1e-4, atol=1e-6)


def test_pictures_are_resized_by_pillow_and_depth_by_scikit_image(tmp_path: Path) -> None:
    transform = pytest.importorskip("skimage.transform")
    network = model()
    estimator = load_keras(saved(network, tmp_path / "net.keras"), CPU, RELATIVE)
    shown = pictures(2, 20, 30)
    resized = [
        np.asarray(Image.fromarray(it.numpy()).resize((64, 32), Image.Resampling.BICUBIC))
        for it in shown
    ]
    wanted = [
        transform.resize(it, (20, 30), order=1, mode="reflect", anti_aliasing=True)
        for it in output(network, np.stack(resized) / 255)
    ]
    np.testing.assert_allclose(estimator(shown), wanted, rtol=1e-4)


def test_an_open_size_is_the_pictures_own_in_whole_steps(tmp_path: Path) -> None:
    estimator = load_keras(saved(model(None, None), tmp_path / "net.keras"), CPU, RELATIVE)
    assert estimator.convention.input_size(100, 10, estimator.fixed) == (96, 32)
    assert estimator(pictures(1, 100, 10)).shape == (1, 100, 10)


def test_what_the_numbers_mean_is_never_guessed(tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match=r"net\.keras does not say what its numbers mean"):
        load_keras(saved(model(), tmp_path / "net.keras"), CPU)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_what_is_taken_for_densedepth_and_is_another_leads_here(tmp_path: Path) -> None:
    picture = keras.Input((32, 64, 3))
    plain = keras.Model(picture, keras.layers.Conv2D(1, 1)(picture))
    for number, (network, told) in enumerate(
        ((model(), "of class Dropout"), (plain, "is not that of a Keras 2 model"))
    ):
        path = saved(network, tmp_path / f"{number}.h5")
        with pytest.raises(EstimatorError, match=f"{told}.*of Keras 3, with --model keras"):
            load_densedepth(path)


def test_another_size_than_the_file_takes_is_refused(tmp_path: Path) -> None:
    path = saved(model(), tmp_path / "net.keras")
    with pytest.raises(OptionsError, match="takes a side of 64 pixels and no other; size is 32"):
        load_keras(path, CPU, RELATIVE | {"size": (32, 32)})


@pytest.mark.parametrize("variant", ["original", "later"])
def test_densedepth_gives_the_labels_of_the_original(densedepth: DenseDepths, variant: str) -> None:
    from tests.depthgen.depth import keras_oracle

    network, path = densedepth(variant)
    estimator = load_keras(path, CPU)
    assert (estimator.quantity, estimator.full_scale) == ("depth_m", 1.0)
    shown = keras_oracle.pictures(2, (100, 100), 5)
    found = np.floor(255 * estimator(torch.from_numpy(shown)).numpy()).astype(int)
    wanted = keras_oracle.labels(network, shown).astype(int)
    assert wanted.std() > 5
    assert np.abs(found - wanted).max() <= 1
    assert (found != wanted).mean() < 1e-3


def edited(path: Path, to: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of an HDF5 file with its config changed."""
    to.write_bytes(path.read_bytes())
    with h5py.File(to, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        edit(config)
        file.attrs["model_config"] = json.dumps(config)
    return to


def test_a_config_as_keras_2_2_4_wrote_it_is_read(densedepth: DenseDepths, tmp_path: Path) -> None:
    def age(config: dict[str, Any]) -> None:
        config["class_name"] = "Model"
        for layer in config["config"]["layers"]:
            for newer in ("groups", "ragged", "optional", "dtype"):
                layer["config"].pop(newer, None)

    path = densedepth("original")[1]
    old = load_keras(edited(path, tmp_path / "old.h5", age), CPU)
    assert torch.equal(old(pictures()), load_keras(path, CPU)(pictures()))


def test_arrays_go_to_the_layer_of_their_name_in_any_order(
    densedepth: DenseDepths, tmp_path: Path
) -> None:
    def turn(config: dict[str, Any]) -> None:
        config["config"]["layers"].reverse()

    path = densedepth("original")[1]
    turned = load_keras(edited(path, tmp_path / "turned.h5", turn), CPU)
    assert torch.equal(turned(pictures()), load_keras(path, CPU)(pictures()))


def test_a_layer_without_its_arrays_is_named(densedepth: DenseDepths, tmp_path: Path) -> None:
    def rename(config: dict[str, Any]) -> None:
        text = json.dumps(config).replace('"up2_convB"', '"up2_convC"')
        config.update(json.loads(text))

    path = edited(densedepth("original")[1], tmp_path / "net.h5", rename)
    with pytest.raises(EstimatorError, match=r"the layer up2_convC takes arrays of .* has \[\]"):
        load_keras(path, CPU)


def layered() -> Any:
    """A network with another inside, whose branches are alike, and attention; random weights."""
    layers = keras.layers
    inner = keras.Input((8, 16, 3))
    branches = [layers.Conv2D(4, 1, name=name)(inner) for name in ("one", "two")]
    scaled = layers.BatchNormalization(name="norm")(branches[0])
    encoder = keras.Model(inner, layers.Subtract()([scaled, branches[1]]), name="encoder")
    picture = keras.Input((8, 16, 3))
    x = layers.MultiHeadAttention(2, 2, attention_axes=(1, 2))(encoder(picture), encoder(picture))
    network = keras.Model(picture, layers.Conv2D(1, 1)(x))
    random = np.random.default_rng(1)
    network.set_weights(
        [random.uniform(0.1, 1.0, weight.shape) for weight in network.get_weights()]
    )
    return network


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_network_within_the_network_and_attention_get_their_arrays(tmp_path: Path) -> None:
    network = layered()
    path = saved(network, tmp_path / "net.h5")
    wanted = output(network, pictures(2, 8, 16).numpy() / 255)
    assert wanted.std() > 0.001
    values = load_keras(path, CPU, RELATIVE)(pictures(2, 8, 16))
    np.testing.assert_allclose(values, wanted, atol=1e-5)
    with h5py.File(path, "r+") as file:
        held = file["model_weights/encoder"]
        names = list(held.attrs["weight_names"])
        held.attrs["weight_names"] = [*names[2:], *names[:2]]
    values = load_keras(path, CPU, RELATIVE)(pictures(2, 8, 16))
    np.testing.assert_allclose(values, wanted, atol=1e-5)
    with h5py.File(path, "r+") as file:
        held = file["model_weights/encoder"]
        held.move("one", "first")
        renamed = [str(name).replace("one/", "first/") for name in names]
        held.attrs["weight_names"] = renamed
    with pytest.raises(EstimatorError, match="a network encoder whose arrays have other names"):
        load_keras(path, CPU, RELATIVE)


def test_weights_alone_are_refused(densedepth: DenseDepths, tmp_path: Path) -> None:
    path = tmp_path / "net.h5"
    path.write_bytes(densedepth("original")[1].read_bytes())
    with h5py.File(path, "r+") as file:
        del file.attrs["model_config"]
    with pytest.raises(EstimatorError, match="holds weights alone"):
        load_keras(path, CPU)


def with_config(path: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """A .keras file in `path` with its config changed."""
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    config = json.loads(parts["config.json"])
    edit(config)
    parts["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as file:
        for name, data in parts.items():
            file.writestr(name, data)
    return path


def lambda_file(folder: Path) -> Path:
    picture = keras.Input((32, 64, 3))
    x = keras.layers.Lambda(lambda x: x[..., :1], output_shape=(32, 64, 1), name="sly")(picture)
    return saved(keras.Model(picture, x), folder / "net.keras")


def test_a_lambda_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(EstimatorError, match="has the layer sly of the kind Lambda, which runs"):
        load_keras(lambda_file(tmp_path), CPU, RELATIVE)


def test_a_lambda_in_an_old_file_is_refused_and_not_run(
    densedepth: DenseDepths, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    source = f"__import__('pathlib').Path({str(trace)!r}).touch()"
    code = base64.b64encode(marshal.dumps(compile(source, "net", "eval"))).decode()

    def hide(config: dict[str, Any]) -> None:
        layer = config["config"]["layers"][-1]
        layer["class_name"] = "Lambda"
        layer["config"] = {"name": "sly", "function": [code, None, None]}

    path = edited(densedepth("original")[1], tmp_path / "net.h5", hide)
    with pytest.raises(EstimatorError, match="has the layer sly of the kind Lambda"):
        load_keras(path, CPU)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("kind", "module", "words"),
    [
        ("Popen", "subprocess", "needs Popen of subprocess, which is not Keras's own"),
        ("TFSMLayer", "keras.layers", "of the kind TFSMLayer"),
        ("Conv2D", "tf_keras.layers", r"of Keras 2, which Keras 3 cannot read; save it as \.h5"),
        ("Convolution", "keras.layers", "cannot be loaded: "),
    ],
)
def test_a_layer_that_is_not_kerass_own_is_refused(
    tmp_path: Path, kind: str, module: str, words: str
) -> None:
    def swap(config: dict[str, Any]) -> None:
        config["config"]["layers"][1] |= {"class_name": kind, "module": module}

    path = with_config(saved(model(), tmp_path / "net.keras"), swap)
    with pytest.raises(EstimatorError, match=words) as caught:
        load_keras(path, CPU, RELATIVE)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.keras"
    with pytest.raises(EstimatorError, match=r"net\.keras cannot be read: No such file"):
        load_keras(path, CPU, RELATIVE)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(EstimatorError, match=r"neither a \.keras file nor HDF5 of Keras"):
        load_keras(path, CPU, RELATIVE)
    path.write_bytes(b"\x89HDF\r\n\x1a\n cut off")
    with pytest.raises(EstimatorError, match="not a readable HDF5 file"):
        load_keras(path, CPU, RELATIVE)


def test_a_network_of_several_inputs_or_without_a_map_is_refused(tmp_path: Path) -> None:
    left, right = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    both = keras.Model([left, right], keras.layers.Add()([left, right]))
    with pytest.raises(EstimatorError, match="has 2 inputs and 1 outputs"):
        load_keras(saved(both, tmp_path / "both.keras"), CPU, RELATIVE)
    grey = keras.Input((8, 8, 1))
    with pytest.raises(EstimatorError, match="no RGB picture with its channels last"):
        load_keras(saved(keras.Model(grey, grey * 2), tmp_path / "grey.keras"), CPU, RELATIVE)
    colour = load_keras(saved(keras.Model(left, left * 2), tmp_path / "same.keras"), CPU, RELATIVE)
    with pytest.raises(EstimatorError, match="gives 2 × 8 × 8 × 3, not one depth map a picture"):
        colour(pictures())


def test_not_a_number_passes_through(tmp_path: Path) -> None:
    network = model()
    network.set_weights([weight * np.nan for weight in network.get_weights()])
    path = saved(network, tmp_path / "net.keras")
    assert load_keras(path, CPU, RELATIVE)(pictures()).isnan().all()


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = saved(model(), tmp_path / "net.keras")
    with pytest.raises(EstimatorError, match="run on cpu or cuda, not on mps"):
        load_keras(path, torch.device("mps"), RELATIVE)


class Fails:
    """A network that cannot be run, for a reason of its own."""

    def __init__(self, reason: Exception) -> None:
        self.reason = reason

    def predict_on_batch(self, _: object) -> None:
        raise self.reason


def test_too_large_a_batch_is_told_from_a_network_that_fails(tmp_path: Path) -> None:
    import tensorflow as tf

    whole = load_keras(saved(model(None, None), tmp_path / "net.keras"), CPU, RELATIVE)
    full = Fails(tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"))
    with pytest.raises(torch.OutOfMemoryError):
        replace(whole, network=full)(pictures())
    odd = replace(whole, convention=replace(whole.convention, size=(33, 64)))
    with pytest.raises(EstimatorError, match="net cannot be run on 2 × 33 × 64 × 3: "):
        odd(pictures())
