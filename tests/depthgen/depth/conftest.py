"""What the tests of several estimators share: the files that tf-keras writes of DenseDepth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DenseDepths = Callable[[str], tuple[Any, Path]]


@pytest.fixture(scope="session")
def densedepth(tmp_path_factory: pytest.TempPathFactory) -> DenseDepths:
    """(tf-keras model, its file) of a variant of `keras_oracle.SMALL`, made once."""
    for library in ("tf_keras", "skimage"):
        pytest.importorskip(library)
    from tests.depthgen.depth import keras_oracle

    folder = tmp_path_factory.mktemp("densedepth")
    ready: dict[str, tuple[Any, Path]] = {}

    def make(name: str) -> tuple[Any, Path]:
        if name not in ready:
            model = keras_oracle.build(keras_oracle.SMALL[name])
            ready[name] = model, keras_oracle.save(model, folder / f"{name}.h5")
        return ready[name]

    return make
