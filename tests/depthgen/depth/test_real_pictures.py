"""Every kind of labeller on real photographs and on composites of real pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from depthgen import images
from depthgen.archive import Archive
from depthgen.composite import CompositeOptions
from depthgen.composite import run as composite
from depthgen.depth import DepthmapOptions, run
from depthgen.depth.choose import choose_network
from depthgen.prepare.crop import CropOptions
from depthgen.prepare.crop import run as crop
from depthgen.prepare.mask import MaskOptions
from depthgen.prepare.mask import run as mask
from depthgen.sources.crawl import CrawlOptions
from depthgen.sources.crawl import run as crawl
from depthgen.workspace import DEPTH_INFO_MEMBER, Workspace

if TYPE_CHECKING:
    from depthgen.depth.choose import Network
    from tests.depthgen.depth.conftest import DenseDepths

pytestmark = pytest.mark.realdata
SIDE = 192
KINDS = ("layered", "densedepth", "keras", "onnx", "depth_anything", "dpt", "glpn", "zoedepth")


@pytest.fixture(scope="module")
def networks(
    tmp_path_factory: pytest.TempPathFactory, densedepth: DenseDepths
) -> dict[str, DepthmapOptions]:
    """A small network of random weights of every kind, as it is asked for."""
    from tests.depthgen.depth import small_networks
    from tests.depthgen.depth import test_onnx_model as onnx_files

    folder = tmp_path_factory.mktemp("networks")
    _, h5 = densedepth("original")
    onnx = onnx_files.network(folder / "net.onnx", metadata={"depthgen.quantity": "depth_m"})
    asked: dict[str, dict[str, Any]] = {
        "layered": {"model": "layered", "bg_model": "densedepth", "weights": h5},
        "densedepth": {"model": "densedepth", "weights": h5},
        "keras": {"model": "keras", "weights": h5},
        "onnx": {"model": "onnx", "weights": onnx},
    }
    for family in KINDS[4:]:
        made = small_networks.save(small_networks.BUILDERS[family](), family, folder / family)
        asked[family] = {"model": str(made)}
    shared: dict[str, Any] = {"precision": "auto", "forward_batch": 8, "workers": 2}
    return {kind: DepthmapOptions(**shared, **values) for kind, values in asked.items()}


@pytest.fixture(scope="module")
def composites(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """200 composites: 10 backgrounds, 10 cut-outs, mirrored too."""
    import os

    folder = os.environ.get("DEPTHGEN_REALDATA")
    if not folder:
        pytest.skip("set $DEPTHGEN_REALDATA to the folder of real pictures")
    workspace = Workspace(tmp_path_factory.mktemp("real") / "W")
    for kind in ("fg", "bg"):
        origin = Path(folder) / kind
        crawl(workspace, CrawlOptions("folder", kind, origin=origin, count=10))
    mask(workspace, MaskOptions())
    crop(workspace, CropOptions(size=SIDE))
    composite(workspace, CompositeOptions(placements=1))
    return workspace


@pytest.mark.parametrize("kind", KINDS)
def test_two_hundred_composites_are_labelled_twice_the_same(
    composites: Workspace, networks: dict[str, DepthmapOptions], kind: str
) -> None:
    options = networks[kind]
    digests = []
    for _ in range(2):
        overwriting = replace(options, overwrite=True)
        assert run(composites, overwriting).counts["samples"] == 200
        with Archive.open(composites.archive("depth_fg_bg")) as labels:
            digests.append(labels.digest())
            info = json.loads(bytes(labels[DEPTH_INFO_MEMBER]))
            pictures = [
                images.decode_depth(labels[at], name=name)
                for at, name in enumerate(labels.names)
                if name != DEPTH_INFO_MEMBER
            ]
        if kind not in ("keras", "onnx"):  # these compute as their files say
            options = replace(options, precision=info["precision"])
    assert digests[0] == digests[1]
    assert len(pictures) == 200
    assert {each.shape for each in pictures} == {(SIDE, SIDE)}
    assert all(each.min() < each.max() for each in pictures)
    assert len({each.tobytes() for each in pictures}) == 200
    inverse = kind in ("depth_anything", "dpt")
    assert info["quantity"] == ("inverse_depth_relative" if inverse else "depth_m")
    assert np.isfinite(info["full_scale"])


@pytest.mark.parametrize("kind", KINDS[1:])
def test_photographs_give_finite_values_of_their_own_size(
    realdata: Path, networks: dict[str, DepthmapOptions], kind: str, tmp_path: Path
) -> None:
    options = networks[kind]
    network: Network = choose_network(
        Workspace(tmp_path), options.model, options.weights, options.given
    )
    estimator = network.load(torch.device("cpu"), "float32")
    photographs = sorted((realdata / "photos").glob("*"))[:2]
    assert photographs
    for path in photographs:
        picture = images.decode(path.read_bytes(), "RGB", name=path.name)
        batch = torch.from_numpy(picture[None])
        values = estimator(batch)
        assert values.shape == (1, *picture.shape[:2])
        assert bool(torch.isfinite(values).all())
        assert torch.equal(values, estimator(batch))
