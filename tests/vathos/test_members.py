"""Training at another size than the archives': as `depthgen resize` would have made it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from depthgen import images
from depthgen.archive import ArchiveWriter
from depthgen.resize import Resizer
from vathos.data_loader import DenseDepth, members
from vathos.errors import ConfigError, DataError
from vathos.evaluate.opening import open_run
from vathos.runner import Runner
from vathos.trainer.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def make_small(folder: Any, size: int) -> None:
    """What `depthgen resize --size SIZE` writes, archive by archive."""
    for name in ("bg", "fg_bg", "fg_bg_mask", "depth_fg_bg"):
        resizer = Resizer((folder / f"{name}.zip",), name, size, 95)
        count = len(resizer.archives[0])
        with ArchiveWriter(folder / f"{name}_small.zip") as writer:
            for member, data, _ in resizer((0, 0, count))[0]:
                writer.add(member, data)


@pytest.mark.parametrize("depth_bits", [8, 16, 32])
@pytest.mark.parametrize(("stored", "size", "reduced"), [(64, 16, 4), (48, 16, 2), (40, 32, 1)])
def test_labels_equal_those_of_resize_and_pictures_are_close(
    tiny_set: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    depth_bits: int,
    stored: int,
    size: int,
    reduced: int,
) -> None:
    made = tiny_set(size=stored, depth_bits=depth_bits, n_bg=2).write()
    make_small(made.folder, size)
    small = DenseDepth(made.folder, made.folder, suffix="small").load_batch(range(8))
    ours = DenseDepth(made.folder, made.folder, suffix="", size=size)
    seen: set[tuple[str, int]] = set()

    def recorded(data: Any, mode: Any, **options: Any) -> Any:
        seen.add((mode, options["reduced"]))
        return images.decode(data, mode, **options)

    monkeypatch.setattr(members, "decode", recorded)
    batch = ours.load_batch(range(8))
    assert seen == {("RGB", reduced), ("L", 1)}
    assert (ours.height, ours.width) == (size, size)
    for key in ("fg_bg_mask", "depth_fg_bg"):
        assert torch.equal(batch[key], small[key])
    # Of 255: one was coded once more, around the cut-outs' edges above all, and the other may be
    # scaled while it is decoded. Up to twice what is seen.
    for key, most in (("bg", 1.2), ("fg_bg", 5.0 if reduced > 1 else 3.2)):
        off = (batch[key].int() - small[key].int()).abs().float()
        assert off.mean() < most


def test_a_size_of_more_than_half_is_a_plain_average(tiny_set: Callable[..., Any]) -> None:
    made = tiny_set(size=48, n_bg=2).write()
    whole = DenseDepth(made.folder, made.folder).load_batch([5])
    ours = DenseDepth(made.folder, made.folder, size=32).load_batch([5])
    picture = whole["fg_bg"][0].permute(1, 2, 0).contiguous().numpy()
    wanted = images.resize(picture, 32, 32, "area")
    assert np.array_equal(ours["fg_bg"][0].permute(1, 2, 0).numpy(), wanted)


def test_the_stored_size_changes_nothing(tiny_set: Callable[..., Any]) -> None:
    made = tiny_set(original=True).write()
    whole = DenseDepth(made.folder, made.folder).load_batch(range(16))
    same = DenseDepth(made.folder, made.folder, size=16).load_batch(range(16))
    assert all(torch.equal(whole[key], same[key]) for key in whole)


def test_a_larger_size_than_stored_is_refused(tiny_set: Callable[..., Any]) -> None:
    made = tiny_set().write()
    with pytest.raises(DataError, match=r"bg_000\.jpg is 16 x 16, and dataset\.size 32 makes"):
        DenseDepth(made.folder, made.folder, size=32)


def test_a_member_of_another_size_is_named_at_any_size(tiny_set: Callable[..., Any]) -> None:
    made = tiny_set(size=64).write()
    large = (made.folder / "fg_bg.zip").read_bytes()
    made = tiny_set(size=32).write()
    (made.folder / "fg_bg.zip").write_bytes(large)
    dataset = DenseDepth(made.folder, made.folder, size=16)
    sentence = r"fg_000_bg_000_000000\.jpg is 64 x 64, but the backgrounds are 32 x 32"
    with pytest.raises(DataError, match=sentence):
        dataset.load_batch([0])


def test_a_run_at_a_smaller_size_says_so_in_its_checkpoint_and_is_evaluated_at_it(
    tiny_set: Callable[..., Any], tmp_path: Path
) -> None:
    made = tiny_set(size=32).write()
    config = {
        "name": "half",
        "chkpt_dir": str(tmp_path),
        "device": "CPU",
        "precision": "float32",
        "model": "TinyNet",
        "dataset": {"root": str(made.folder), "size": 16, "loader_args": {"batch_size": 4}},
        "training": {"steps": 2},
    }
    Runner(config).start_train()
    checkpoint = tmp_path / "half" / "model_checkpoint.pt"
    assert load_checkpoint(checkpoint)["size"] == [16, 16]
    opened = open_run(checkpoint, None, None)
    assert (opened.dataset.height, opened.dataset.width) == (16, 16)
    with pytest.raises(ConfigError, match=r"started with dataset\.size 16, and it is now None"):
        Runner({**config, "dataset": {"root": str(made.folder)}}).setup_train()
