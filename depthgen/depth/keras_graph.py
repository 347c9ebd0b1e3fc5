"""DenseDepth as a Keras `model_config` describes it: the graph, followed layer by layer.

The one rule: following is all that is done with it. No layer is built, and one that DenseDepth has
not, or that is set otherwise, is refused by its name; so is a Lambda, which is code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from depthgen.depth.weights import WeightsError

if TYPE_CHECKING:
    from pathlib import Path

_BLOCKS = 4
_SLOPE = 0.2
_ANOTHER = "read another network, or one of Keras 3, with --model keras"
# What a setting may be, the first being Keras's default where a config leaves it out.
_LAST_AXIS = ([3], 3, -1, [-1])
_COMMON: dict[str, dict[str, tuple[Any, ...]]] = {
    "InputLayer": {},
    "ZeroPadding2D": {"data_format": ("channels_last",)},
    "Conv2D": {
        "data_format": ("channels_last",),
        "dilation_rate": ([1, 1],),
        "groups": (1,),
        "activation": ("linear",),
    },
    "BatchNormalization": {"axis": _LAST_AXIS, "center": (True,), "scale": (True,)},
    "Activation": {"activation": ("relu",)},
    "MaxPooling2D": {"data_format": ("channels_last",), "padding": ("valid",)},
    "AveragePooling2D": {"data_format": ("channels_last",), "padding": ("valid",)},
    "Concatenate": {"axis": (-1, 3)},
    "BilinearUpSampling2D": {"data_format": ("channels_last",), "size": ([2, 2],)},
    "LeakyReLU": {},
}


@dataclass(frozen=True)
class Graph:
    """What the config says.

    width: channels of conv2. names: the file's own layer for each layer of DenseDepth with arrays.
    """

    blocks: tuple[int, ...]
    width: int
    leaky_twice: bool
    epsilon: float
    names: dict[str, str]


def read_graph(path: Path, config: dict[str, Any]) -> Graph:
    """Follow the config of a Keras 2 model from its input to its output.

    Raises `WeightsError` naming the layer where it is not DenseDepth, and where a layer is of a
    class that DenseDepth has not, a Lambda above all.
    """
    try:
        layers = [_layer(path, layer) for layer in config["config"]["layers"]]
        ((output, *_),) = config["config"]["output_layers"]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise WeightsError(
            f"{path}: model_config is not that of a Keras 2 model with one output; {_ANOTHER}"
        ) from error
    walk = _Walk(path, {layer.name: layer for layer in layers})
    stem = walk.stem()
    skips, blocks = [stem], []
    x = walk.pooled_stem(stem)
    for block in range(1, _BLOCKS + 1):
        skips.append(x)
        x, count = walk.dense_block(x, block)
        blocks.append(count)
        x = walk.transition(x, block) if block < _BLOCKS else walk.norm_relu(x, "bn")
    x = walk.conv(x, "conv2", 1, bias=True)
    width = walk.layers[x].settings.get("filters")
    twice = []
    for number, skip in enumerate(reversed(skips[:_BLOCKS]), 1):
        x, both = walk.up_block(x, skip, f"up{number}")
        twice.append(both)
    x = walk.conv(x, "conv3", 3, bias=True)
    walk.finish(x, output)
    if len(set(twice)) != 1 or not isinstance(width, int):
        raise WeightsError(f"{path}: its up blocks differ in their LeakyReLUs; DenseDepth's do not")
    return Graph(tuple(blocks), width, twice[0], walk.epsilon(), walk.names)


@dataclass(frozen=True)
class _Layer:
    name: str
    kind: str
    settings: dict[str, Any]
    inputs: tuple[str, ...]


def _layer(path: Path, described: dict[str, Any]) -> _Layer:
    name, kind = described["config"]["name"], described["class_name"]
    if kind not in _COMMON:
        code = "it is code, and a weights file's code is not run"
        hint = code if kind == "Lambda" else _ANOTHER
        raise WeightsError(
            f"{path} has a layer {name} of class {kind}, which DenseDepth has not; {hint}"
        )
    nodes = described["inbound_nodes"]
    inputs = tuple(source[0] for node in nodes for source in node)
    if len(nodes) > 1 or not all(isinstance(source, str) for source in inputs):
        raise WeightsError(f"{path}: layer {name} is used in a way that DenseDepth does not know")
    return _Layer(name, kind, described["config"], inputs)


@dataclass
class _Walk:
    """A place in the graph is the name of the layer that makes it."""

    path: Path
    layers: dict[str, _Layer]
    names: dict[str, str] = field(default_factory=dict)
    visited: set[str] = field(default_factory=set)

    def follow(self, inputs: tuple[str, ...], kind: str, **settings: Any) -> str:
        """The one layer of a kind that takes these inputs; its settings must be these."""
        found = self._after(inputs, kind)
        if len(found) != 1:
            there = [f"{layer.name} ({layer.kind})" for layer in self._after(inputs)]
            raise WeightsError(
                f"{self.path}: after {' and '.join(inputs) or 'nothing'} DenseDepth has one "
                f"{kind}, but the file has {', '.join(there) or 'nothing'}"
            )
        layer = found[0]
        allowed = _COMMON[kind] | {key: (value,) for key, value in settings.items()}
        for key, values in allowed.items():
            value = layer.settings.get(key, values[0])
            if value not in values:
                raise WeightsError(
                    f"{self.path}: layer {layer.name} has {key} {value}, DenseDepth's {values[0]}"
                )
        if layer.name in self.visited:
            raise WeightsError(f"{self.path}: layer {layer.name} feeds itself")
        self.visited.add(layer.name)
        return layer.name

    def _after(self, inputs: tuple[str, ...], kind: str | None = None) -> list[_Layer]:
        return [
            layer
            for layer in self.layers.values()
            if layer.inputs == inputs and kind in (None, layer.kind)
        ]

    def conv(self, x: str, part: str, size: int, *, bias: bool = False) -> str:
        # 1 × 1 is the same under either padding.
        padding = {} if size == 1 else {"padding": "same"}
        self.names[part] = self.follow(
            (x,), "Conv2D", kernel_size=[size, size], strides=[1, 1], use_bias=bias, **padding
        )
        return self.names[part]

    def norm_relu(self, x: str, part: str) -> str:
        self.names[part] = self.follow((x,), "BatchNormalization")
        return self.follow((self.names[part],), "Activation")

    def stem(self) -> str:
        x = self.follow((), "InputLayer")
        x = self.follow((x,), "ZeroPadding2D", padding=[[3, 3], [3, 3]])
        x = self.names["conv1/conv"] = self.follow(
            (x,),
            "Conv2D",
            kernel_size=[7, 7],
            strides=[2, 2],
            padding="valid",
            use_bias=False,
        )
        return self.norm_relu(x, "conv1/bn")

    def pooled_stem(self, x: str) -> str:
        x = self.follow((x,), "ZeroPadding2D", padding=[[1, 1], [1, 1]])
        return self.follow((x,), "MaxPooling2D", pool_size=[3, 3], strides=[2, 2])

    def dense_block(self, x: str, block: int) -> tuple[str, int]:
        """(what the block makes, its dense layers)."""
        count = 0
        while any(
            layer.inputs[:1] == (x,) and layer.kind == "Concatenate"
            for layer in self.layers.values()
        ):
            count += 1
            part = f"conv{block + 1}_block{count}"
            new = self.conv(self.norm_relu(x, f"{part}_0_bn"), f"{part}_1_conv", 1)
            new = self.conv(self.norm_relu(new, f"{part}_1_bn"), f"{part}_2_conv", 3)
            x = self.follow((x, new), "Concatenate")
        return x, count

    def transition(self, x: str, block: int) -> str:
        part = f"pool{block + 1}"
        x = self.conv(self.norm_relu(x, f"{part}_bn"), f"{part}_conv", 1)
        return self.follow((x,), "AveragePooling2D", pool_size=[2, 2], strides=[2, 2])

    def up_block(self, x: str, skip: str, part: str) -> tuple[str, bool]:
        """(what the block makes, whether a LeakyReLU follows the first convolution too)."""
        x = self.follow((x,), "BilinearUpSampling2D")
        x = self.follow((x, skip), "Concatenate")
        x = self.conv(x, f"{part}_convA", 3, bias=True)
        twice = bool(self._after((x,), "LeakyReLU"))
        if twice:
            x = self._leaky(x)
        return self._leaky(self.conv(x, f"{part}_convB", 3, bias=True)), twice

    def _leaky(self, x: str) -> str:
        x = self.follow((x,), "LeakyReLU")
        slope = self.layers[x].settings.get("alpha")
        # Keras stores the float32 that is nearest to 0.2.
        if not isinstance(slope, float) or abs(slope - _SLOPE) > 1e-6:
            raise WeightsError(
                f"{self.path}: layer {x} has a slope of {slope}, DenseDepth's {_SLOPE}"
            )
        return x

    def finish(self, x: str, output: str) -> None:
        if x != output:
            raise WeightsError(f"{self.path}: its output is {output}, DenseDepth's is {x}")
        for name in self.layers:
            if name not in self.visited:
                raise WeightsError(f"{self.path} has a layer {name}, which DenseDepth has not")

    def epsilon(self) -> float:
        found = {
            layer.settings.get("epsilon")
            for layer in self.layers.values()
            if layer.kind == "BatchNormalization"
        }
        epsilon = found.pop()
        if found or not isinstance(epsilon, float):
            raise WeightsError(f"{self.path}: its BatchNormalization layers differ in epsilon")
        return epsilon
