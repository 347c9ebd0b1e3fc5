"""DenseDepth as tf-keras builds it: it writes the weights files of the tests, and predicts on them.

It follows the original's code layer by layer, with each variant a switch, on random weights that
are calibrated so that the output looks like a trained network's.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from skimage.transform import resize

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
import tf_keras
from tf_keras.src.applications import densenet

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MEAN, STD = 3.6, 0.8
DENSENET_169 = (6, 12, 32, 32)
DENSENET_201 = (6, 12, 48, 32)


@dataclass(frozen=True)
class Variant:
    """original: one LeakyReLU and aligned corners; else two, and half-pixel centres."""

    blocks: tuple[int, ...] = (1, 2, 2, 1)
    half: bool = False
    original: bool = True


# With a small encoder: as of 2018, as of today, and half of either.
SMALL = {
    "original": Variant(),
    "later": Variant(half=True, original=False),
    "narrow": Variant(half=True),
    "wide": Variant(original=False),
}


class BilinearUpSampling2D(tf_keras.layers.Layer):
    """The original's own layer; its configuration says nothing of corners."""

    align_corners = True

    def __init__(
        self, size: tuple[int, int] = (2, 2), data_format: str = "channels_last", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.size = size
        self.data_format = data_format

    def call(self, inputs: Any) -> Any:
        size = 2 * tf.shape(inputs)[1:3]
        if self.align_corners:
            return tf.compat.v1.image.resize(inputs, size, align_corners=True)
        return tf.image.resize(inputs, size)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"size": self.size, "data_format": self.data_format}


def build(
    variant: Variant, seed: int = 0, count: int = 4, size: tuple[int, int] = (256, 320)
) -> Any:
    """A model for pictures of any size, calibrated on so many of a (height, width).

    Its layers' names start anew, as in a new process.
    """
    tf_keras.backend.clear_session()
    encoder = densenet.DenseNet(
        list(variant.blocks), include_top=False, weights=None, input_shape=(None, None, 3)
    )
    model = _decode(encoder, variant)
    _randomise(model, np.random.default_rng(seed))
    _calibrate(model, pictures(count, size, seed + 1).astype(np.float32) / 255)
    return model


def save(model: Any, path: Path) -> Path:
    """Write the whole model as the HDF5 file that Keras 2 writes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "this file format is considered legacy"
        model.save(path)
    return path


def predict(model: Any, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, H, W, 3) uint8 → (N, H / 2, W / 2): the network's own output."""
    out: NDArray[np.float32] = model.predict(batch.astype(np.float32) / 255, verbose=0)[..., 0]
    return out


def labels(model: Any, batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The original's whole way, from (N, H, W, 3) pictures to (N, H, W) 8-bit labels."""
    _, height, width, _ = batch.shape
    resized = [Image.fromarray(each).resize((640, 480), Image.Resampling.BICUBIC) for each in batch]
    found = []
    for resized_picture in resized:  # one at a time, to keep the memory of a test small
        out = predict(model, np.asarray(resized_picture)[None])[0]
        label = np.clip(1000 / out, 10, 1000) / 1000
        sized = resize(label, (height, width), order=1, mode="reflect", preserve_range=True)
        found.append(np.floor(sized * 255).astype(np.uint8))
    return np.stack(found)


def _decode(encoder: Any, variant: Variant) -> Any:
    layers = tf_keras.layers
    width = encoder.output.shape[-1] // (2 if variant.half else 1)

    def up(x: Any, filters: int, name: str, skip: str) -> Any:
        resized = BilinearUpSampling2D(name=f"{name}_upsampling2d")
        resized.align_corners = variant.original
        x = layers.Concatenate(name=f"{name}_concat")([resized(x), encoder.get_layer(skip).output])
        x = layers.Conv2D(filters, 3, padding="same", name=f"{name}_convA")(x)
        if not variant.original:
            x = layers.LeakyReLU(alpha=0.2)(x)
        x = layers.Conv2D(filters, 3, padding="same", name=f"{name}_convB")(x)
        return layers.LeakyReLU(alpha=0.2)(x)

    x = layers.Conv2D(width, 1, padding="same", name="conv2")(encoder.output)
    for number, skip in enumerate(("pool3_pool", "pool2_pool", "pool1", "conv1/relu"), 1):
        x = up(x, width // 2**number, f"up{number}", skip)
    x = layers.Conv2D(1, 3, padding="same", name="conv3")(x)
    return tf_keras.Model(inputs=encoder.input, outputs=x)


def _randomise(model: Any, random: np.random.Generator) -> None:
    """Kernels of He's scale; norms that scale and shift, a few of them by nothing or backwards."""
    for layer in model.layers:
        if isinstance(layer, tf_keras.layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            gamma = random.uniform(0.2, 0.4, gamma.shape)
            gamma[::20] *= -1.0
            if layer.name != "conv1/bn":  # a constant channel of the stem would be all that counts
                gamma[5::50] = 0.0
            layer.set_weights([gamma, random.normal(0.0, 0.3, beta.shape), mean, variance])
        elif isinstance(layer, tf_keras.layers.Conv2D):
            kernel, *bias = layer.get_weights()
            scale = np.sqrt(2.0 / np.prod(kernel.shape[:3]))
            values = [random.normal(0.0, scale, kernel.shape)]
            layer.set_weights(values + [random.normal(0.0, 0.1, each.shape) for each in bias])


def _calibrate(model: Any, batch: NDArray[np.floating]) -> None:
    """Give the norms the batch's own statistics, and the output a trained network's."""
    norms = [x for x in model.layers if isinstance(x, tf_keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0
    model(batch, training=True)
    for norm in norms:
        norm.momentum = 0.99
    out = model(batch, training=False).numpy()
    last = model.get_layer("conv3")
    kernel, bias = last.get_weights()
    scale = STD / out.std()
    last.set_weights([kernel * scale, (bias - out.mean()) * scale + MEAN])


def pictures(count: int, size: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """(N, H, W, 3) of soft patches with some noise: more like photographs than noise alone."""
    random = np.random.default_rng(seed)
    height, width = size
    coarse = random.integers(0, 256, (count, 6, 8, 3)).astype(np.float32)
    soft = tf.image.resize(coarse, size, method="bicubic").numpy()
    noisy = soft + random.normal(0.0, 8.0, (count, height, width, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)
