"""Smaller archives, against plain averages, with the same names."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from depthgen.archive import ArchiveWriter, shard_path
from depthgen.errors import OptionsError, StageError
from depthgen.images import decode, encode_jpeg, encode_mask, encode_png
from depthgen.resize import ResizeOptions, run
from depthgen.stage import Manifest
from depthgen.workspace import DEPTH_INFO_MEMBER, Workspace

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_LABELS = b"fg_bg/a.jpg\tfg_bg_mask/a.png\t3\t4\t5\t6\t0\t0.5\n"


def scene(seed: int, side: int = 32, dtype: type = np.uint8, channels: int = 3) -> NDArray[Any]:
    shape = (side, side, channels) if channels > 1 else (side, side)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype)


def averaged(pixels: NDArray[Any], factor: int) -> NDArray[np.float64]:
    side = pixels.shape[0] // factor
    blocks = pixels.reshape(side, factor, side, factor, -1).astype(np.float64)
    return blocks.mean((1, 3)).squeeze()


def npy(values: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def write(path: Path, members: dict[str, bytes]) -> None:
    with ArchiveWriter(path) as writer:
        for name, data in members.items():
            writer.add(name, data)


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A tiny set: two backgrounds, three samples."""
    workspace = Workspace(tmp_path)
    write(workspace.archive("bg"), {f"bg/bg_00{n}.jpg": encode_jpeg(scene(n), 80) for n in (0, 1)})
    fg_bg = {f"fg_bg/bg_000/fg_000_bg_000_00000{n}.jpg": encode_jpeg(scene(n), 80) for n in (2, 3)}
    write(workspace.archive("fg_bg"), fg_bg | {"labels/bg_000_label_info.txt": _LABELS})
    masks = [scene(n, channels=1) > 120 for n in range(3)]
    write(
        workspace.archive("fg_bg_mask"),
        {f"fg_bg_mask/m_{n}.png": encode_mask(mask) for n, mask in enumerate(masks)},
    )
    depth = {
        "depth_fg_bg/d_8.png": encode_png(scene(1, channels=1)),
        "depth_fg_bg/d_16.png": encode_png(scene(2, dtype=np.uint16, channels=1)),
        "depth_fg_bg/d_f.npy": npy(np.random.default_rng(1).random((32, 32), np.float32)),
        DEPTH_INFO_MEMBER: b'{"quantity": "depth_m"}',
    }
    write(workspace.archive("depth_fg_bg"), depth)
    return workspace


def test_every_archive_is_averaged_under_the_same_names(workspace: Workspace) -> None:
    run(workspace, ResizeOptions(size=16, quality=95, workers=1))
    for name in ("bg", "fg_bg", "fg_bg_mask", "depth_fg_bg"):
        before = members(workspace.archive(name))
        after = members(workspace.archive(f"{name}_small"))
        assert list(before) == list(after)
        for member, data in before.items():
            if member.startswith("labels/"):
                assert after[member] == data
            elif name == "depth_fg_bg":
                check_depth(data, after[member])
            elif name == "fg_bg_mask":
                white = averaged(decode(data, "L"), 2) >= 127.5
                assert np.array_equal(decode(after[member], "L") == 255, white)
            else:
                expected = averaged(decode(data, "RGB"), 2)
                off = decode(encode_jpeg(np.round(expected).astype(np.uint8), 95), "RGB")
                assert np.abs(decode(after[member], "RGB").astype(int) - off).mean() < 4


def check_depth(before: bytes, after: bytes) -> None:
    if before.startswith(b"\x93NUMPY"):
        expected = averaged(np.load(io.BytesIO(before)), 2)
        assert np.allclose(np.load(io.BytesIO(after)), expected, atol=1e-6)
    else:
        source, result = (np.array(Image.open(io.BytesIO(data))) for data in (before, after))
        assert source.dtype == result.dtype
        assert np.abs(result - averaged(source, 2)).max() <= 1


def test_any_number_of_workers_gives_the_same_bytes(workspace: Workspace) -> None:
    run(workspace, ResizeOptions(size=12, workers=1))
    one = workspace.archive("fg_bg_small").read_bytes()
    run(workspace, ResizeOptions(size=12, workers=2, overwrite=True))
    assert workspace.archive("fg_bg_small").read_bytes() == one
    assert run(workspace, ResizeOptions(size=12)).already_done


def test_an_unfinished_archive_is_gone_on_with(workspace: Workspace) -> None:
    many = {f"fg_bg_mask/m_{n}.png": encode_mask(scene(n, channels=1) > 99) for n in range(600)}
    workspace.archive("fg_bg_mask").unlink()
    write(workspace.archive("fg_bg_mask"), many)
    run(workspace, ResizeOptions(size=16, workers=1))
    whole = workspace.archive("fg_bg_mask_small")
    expected = whole.read_bytes()
    whole.with_name(whole.name + ".partial").write_bytes(expected[: len(expected) // 2])
    whole.unlink()
    run(workspace, ResizeOptions(size=16, workers=1))
    assert whole.read_bytes() == expected


def test_a_damaged_member_is_named_and_not_resized(workspace: Workspace) -> None:
    path = workspace.archive("fg_bg")
    data = bytearray(path.read_bytes())
    data[data.index(b"\xff\xd9") - 20] ^= 1  # in the first picture, which still decodes
    path.write_bytes(data)
    with pytest.raises(StageError, match=r"fg_000_bg_000_000002\.jpg is damaged.*composite"):
        run(workspace, ResizeOptions(size=16, workers=1))


def test_an_archive_that_is_made_later_is_resized_later(workspace: Workspace) -> None:
    depth = workspace.archive("depth_fg_bg")
    aside = depth.rename(depth.with_suffix(".aside"))
    run(workspace, ResizeOptions(size=16, workers=1))
    aside.rename(depth)
    assert not run(workspace, ResizeOptions(size=16, workers=1)).already_done
    assert workspace.archive("depth_fg_bg_small").exists()


def test_another_size_needs_another_suffix(workspace: Workspace) -> None:
    run(workspace, ResizeOptions(size=16, workers=1))
    with pytest.raises(StageError, match=r"has 16 px; keep both with --suffix s8"):
        run(workspace, ResizeOptions(size=8, workers=1))
    run(workspace, ResizeOptions(size=8, suffix="s8", workers=1))
    assert workspace.archive("fg_bg_s8").exists()


def test_shards_stay_shards(workspace: Workspace) -> None:
    whole = workspace.archive("fg_bg")
    contents = list(members(whole).items())
    whole.unlink()
    for shard, part in enumerate((contents[:1], contents[1:])):
        write(shard_path(whole, shard, 2), dict(part))
    run(workspace, ResizeOptions(size=16, workers=1))
    small = workspace.archive("fg_bg_small")
    assert list(members(shard_path(small, 0, 2))) == [contents[0][0]]
    assert list(members(shard_path(small, 1, 2))) == [name for name, _ in contents[1:]]


def test_the_quality_is_that_of_the_source_unless_told(workspace: Workspace) -> None:
    manifest = Manifest("composite", {"quality": 30}, {}, state="done")
    manifest.write(workspace.manifest("composite"))
    run(workspace, ResizeOptions(size=16, workers=1))
    with zipfile.ZipFile(workspace.archive("fg_bg_small")) as archive:
        data = archive.read(archive.namelist()[0])
    low, high = (len(encode_jpeg(decode(data, "RGB"), quality)) for quality in (30, 90))
    assert abs(len(data) - low) < abs(len(data) - high)


def test_a_size_that_is_refused_costs_nothing_that_is_there(workspace: Workspace) -> None:
    run(workspace, ResizeOptions(size=16, workers=1))
    before = {path: path.read_bytes() for path in workspace.root.rglob("*") if path.is_file()}
    small = encode_png(scene(1, 20, channels=1))
    workspace.archive("depth_fg_bg").unlink()
    write(workspace.archive("depth_fg_bg"), {"depth_fg_bg/d_8.png": small})
    before[workspace.archive("depth_fg_bg")] = workspace.archive("depth_fg_bg").read_bytes()
    for size in (64, 24):  # too large for all; for the last one only
        with pytest.raises(StageError, match="smaller --size"):
            run(workspace, ResizeOptions(size=size, workers=1, overwrite=True))
        after = {path: path.read_bytes() for path in workspace.root.rglob("*") if path.is_file()}
        assert after == before


def test_enlarging_empty_workspaces_and_odd_options_are_refused(
    workspace: Workspace, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match="smaller --size"):
        run(workspace, ResizeOptions(size=32, workers=1))
    with pytest.raises(StageError, match="depthgen composite"):
        run(Workspace(tmp_path / "none"), ResizeOptions())
    for size, suffix, quality in ((0, "small", 90), (9, "../x", 90), (9, "", 90), (9, "s", 0)):
        with pytest.raises(OptionsError):
            ResizeOptions(size, suffix, quality)
