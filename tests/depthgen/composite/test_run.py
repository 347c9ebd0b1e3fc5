"""The stage `composite`, against Pillow doing the same from the labels, and against kills."""

from __future__ import annotations

import hashlib
import io
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from depthgen import images
from depthgen.archive import Archive, ArchiveWriter
from depthgen.composite import CompositeOptions, forecast, run
from depthgen.composite.cells import blocks_in_a_cell
from depthgen.errors import OptionsError, StageError
from depthgen.workspace import Workspace, parse_member

SIDE = 64
ROOT = Path(__file__).parents[3]


def make_workspace(root: Path, n_bg: int = 3, n_fg: int = 4) -> Workspace:
    workspace = Workspace(root)
    noise = np.random.default_rng(0)
    with ArchiveWriter(workspace.archive("bg")) as backgrounds:
        for number in range(n_bg):
            rgb = noise.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
            backgrounds.add(f"bg/bg_{number:03d}.jpg", images.encode_jpeg(rgb, 90))
    with ArchiveWriter(workspace.archive("fg")) as cutouts:
        for number in range(n_fg):
            shape = (20 + 9 * number, 41 - 7 * number, 4)
            rgba = noise.integers(0, 256, shape, np.uint8)
            rgba[3:6, :, 3] = 0
            cutouts.add(f"fg/fg_{number:03d}.png", images.encode_png(rgba))
    return workspace


def sha256(workspace: Workspace) -> list[str]:
    return [
        hashlib.sha256(workspace.archive(name).read_bytes()).hexdigest()
        for name in ("fg_bg", "fg_bg_mask")
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = make_workspace(tmp_path_factory.mktemp("made"))
    run(workspace, CompositeOptions(placements=5, workers=1, quality=85))
    return workspace


def test_every_sample_is_what_pillow_makes_from_its_label(made: Workspace) -> None:
    with (
        zipfile.ZipFile(made.archive("fg_bg")) as composites,
        zipfile.ZipFile(made.archive("fg_bg_mask")) as masks,
        zipfile.ZipFile(made.archive("bg")) as backgrounds,
        zipfile.ZipFile(made.archive("fg")) as cutouts,
    ):
        seen = 0
        for bg in range(3):
            table = composites.read(f"labels/bg_{bg:03d}_label_info.txt").decode()
            for line in table.splitlines():
                name, mask_name, *numbers = line.split("\t")
                x, y, width, height, flip = map(int, numbers[:5])
                member = parse_member(name)
                assert member is not None
                assert (member.bg, member.index) == (bg, seen)
                source = Image.open(io.BytesIO(cutouts.read(f"fg/fg_{member.fg:03d}.png")))
                cutout = source.resize((width, height), Image.Resampling.BICUBIC)
                if flip:
                    cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                jpeg = backgrounds.read(f"bg/bg_{bg:03d}.jpg")
                # Decoders differ by a grey level; the pasting is what is compared here.
                picture = Image.fromarray(images.decode(jpeg, "RGB"))
                picture.paste(cutout, (x, y), cutout)
                whole = np.asarray(picture)[:, :, ::-1]
                assert composites.read(name) == images.encode_jpeg_cells(
                    np.ascontiguousarray(whole), 85, blocks_in_a_cell(SIDE)
                )
                shape = Image.new("L", (SIDE, SIDE))
                shape.paste(cutout.getchannel("A").point(lambda a: 255 if a else 0), (x, y))
                stored = Image.open(io.BytesIO(masks.read(mask_name)))
                assert stored.mode == "1"
                assert np.array_equal(np.asarray(stored.convert("L")), np.asarray(shape))
                assert 0.25 <= float(numbers[5]) <= 0.55
                assert max(width, height) == round(float(numbers[5]) * SIDE)
                seen += 1
        assert seen == 3 * 4 * 5 * 2


def test_members_are_named_and_ordered_as_the_data_set_is_documented(made: Workspace) -> None:
    with zipfile.ZipFile(made.archive("fg_bg")) as composites:
        names = composites.namelist()
        assert {info.compress_type for info in composites.infolist()} == {zipfile.ZIP_STORED}
    assert len(names) == 120 + 3
    assert names[0] == "fg_bg/bg_000/fg_000_bg_000_000000.jpg"
    assert names[40] == "labels/bg_000_label_info.txt"
    # ((bg · n_fg + fg) · placements + placement) · 2 + flip for bg 1, fg 2, placement 3, flip 1
    assert names[((1 * 4 + 2) * 5 + 3) * 2 + 1 + 1] == "fg_bg/bg_001/fg_002_bg_001_000067.jpg"
    with zipfile.ZipFile(made.archive("fg_bg_mask")) as masks:
        assert masks.namelist()[67] == "fg_bg_mask/bg_001/fg_002_bg_001_mask_000067.png"
        assert len(masks.namelist()) == 120


def test_workers_do_not_change_a_byte(made: Workspace, tmp_path: Path) -> None:
    other = make_workspace(tmp_path)
    run(other, CompositeOptions(placements=5, workers=3, quality=85))
    assert sha256(other) == sha256(made)
    assert not other.lock.exists()


def test_a_sample_is_the_same_among_fewer_others(made: Workspace, tmp_path: Path) -> None:
    fewer = make_workspace(tmp_path)
    run(fewer, CompositeOptions(bg=2, fg=3, placements=2, flip=False, quality=85, workers=1))
    with Archive(made.archive("fg_bg")) as many, Archive(fewer.archive("fg_bg")) as few:
        sample = few["fg_bg/bg_001/fg_002_bg_001_000011.jpg"]  # placement 1 of 2, not mirrored
        assert sample == many["fg_bg/bg_001/fg_002_bg_001_000062.jpg"]  # placement 1 of 5


def test_shards_end_at_the_borders_of_backgrounds_and_hold_the_same(
    made: Workspace, tmp_path: Path
) -> None:
    sharded = make_workspace(tmp_path)
    run(sharded, CompositeOptions(placements=5, quality=85, workers=2, shards=2))
    assert not sharded.archive("fg_bg").exists()
    with Archive(made.archive("fg_bg")) as one, Archive.open(sharded.archive("fg_bg")) as two:
        assert list(one.names) == list(two.names)
        assert all(one[index] == two[index] for index in range(len(one)))
        assert len(two.paths) == 2
    with zipfile.ZipFile(two.paths[0]) as first:
        assert first.namelist()[-1] == "labels/bg_000_label_info.txt"


def test_many_shards_need_few_open_files(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, n_bg=40, n_fg=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    here = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (here + 30, hard))
    try:
        run(workspace, CompositeOptions(placements=1, workers=1, shards=40))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with Archive.open(workspace.archive("fg_bg_mask")) as masks:
        assert len(masks) == 80


def test_masks_can_be_jpeg_as_the_original_had_them(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, 1, 1)
    run(workspace, CompositeOptions(placements=1, mask_format="jpg", workers=1))
    with zipfile.ZipFile(workspace.archive("fg_bg_mask")) as masks:
        picture = Image.open(
            io.BytesIO(masks.read("fg_bg_mask/bg_000/fg_000_bg_000_mask_000000.jpg"))
        )
    assert (picture.format, picture.mode) == ("JPEG", "L")


def test_cutouts_as_large_as_the_background_fill_it(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, 1, 2)
    run(workspace, CompositeOptions(placements=2, scale=(1.0, 1.0), workers=1))
    with Archive(workspace.archive("fg_bg")) as composites:
        table = bytes(composites["labels/bg_000_label_info.txt"]).decode()
    for line in table.splitlines():
        x, y, width, height = map(int, line.split("\t")[2:6])
        assert max(width, height) == SIDE
        assert (x == 0) if width == SIDE else (0 <= x <= SIDE - width)
        assert (y == 0) if height == SIDE else (0 <= y <= SIDE - height)


def test_running_again_says_it_is_done_and_touches_nothing(made: Workspace) -> None:
    before = made.archive("fg_bg").stat().st_mtime_ns
    summary = run(made, CompositeOptions(placements=5, workers=1, quality=85))
    assert summary.already_done
    assert summary.counts == {"samples": 120}
    assert made.archive("fg_bg").stat().st_mtime_ns == before


def test_other_options_are_refused_by_name_until_overwritten(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    run(workspace, CompositeOptions(placements=1, workers=1))
    with pytest.raises(StageError, match=r"quality was 90, now 80.*seed was 0, now 5.*--overwrite"):
        run(workspace, CompositeOptions(placements=1, workers=1, quality=80, seed=5))
    run(workspace, CompositeOptions(placements=1, workers=1, quality=80, seed=5, overwrite=True))


def test_changed_input_is_refused_by_name(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    run(workspace, CompositeOptions(placements=1, workers=1))
    workspace.archive("bg").unlink()
    rgb = np.zeros((SIDE, SIDE, 3), np.uint8)
    with ArchiveWriter(workspace.archive("bg")) as backgrounds:
        for number in range(3):
            backgrounds.add(f"bg/bg_{number:03d}.jpg", images.encode_jpeg(rgb, 90))
    with pytest.raises(StageError, match=r"bg\.zip has changed"):
        run(workspace, CompositeOptions(placements=1, workers=1))


def test_fewer_pictures_than_asked_is_one_sentence(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, n_bg=2)
    with pytest.raises(StageError, match=r"has 2 pictures and --bg asks for 100"):
        run(workspace, CompositeOptions(bg=100))
    assert not workspace.manifest("composite").exists()


def test_a_missing_number_is_named(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    workspace.archive("fg").unlink()
    with ArchiveWriter(workspace.archive("fg")) as cutouts:
        for number in (0, 2):
            rgba = np.full((9, 9, 4), 255, np.uint8)
            cutouts.add(f"fg/fg_{number:03d}.png", images.encode_png(rgba))
    with pytest.raises(StageError, match="lacks fg_001"):
        run(workspace, CompositeOptions())


def test_backgrounds_of_several_sizes_are_refused(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, n_bg=1)
    workspace.archive("bg").unlink()
    with ArchiveWriter(workspace.archive("bg")) as backgrounds:
        for number, side in enumerate((32, 48)):
            rgb = np.zeros((side, side, 3), np.uint8)
            backgrounds.add(f"bg/bg_{number:03d}.jpg", images.encode_jpeg(rgb, 90))
    with pytest.raises(StageError, match=r"bg_001\.jpg is 48 × 48.*squares of one size"):
        run(workspace, CompositeOptions())


def test_a_disk_too_small_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = make_workspace(tmp_path)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6, 1000))
    with pytest.raises(StageError, match="make room"):
        run(workspace, CompositeOptions(workers=1))
    assert not list(tmp_path.glob("fg_bg*"))


def test_the_forecast_is_close(made: Workspace) -> None:
    expected = forecast(made, CompositeOptions(placements=5, workers=1, quality=85))
    written = sum(made.archive(name).stat().st_size for name in ("fg_bg", "fg_bg_mask"))
    assert expected.samples == 120
    assert expected.nbytes == pytest.approx(written, rel=0.15)
    assert expected.seconds > 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"bg": 0},
        {"placements": 0},
        {"scale": (0.5, 0.4)},
        {"scale": (0.0, 0.4)},
        {"scale": (0.5, 1.1)},
        {"quality": 101},
        {"mask_format": "gif"},
        {"seed": -1},
        {"workers": 0},
        {"shards": 0},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionsError):
        CompositeOptions(**wrong)


# --- stops -----------------------------------------------------------------------------------

MANY = CompositeOptions(placements=60, workers=2)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The digests of an undisturbed run of `MANY`."""
    workspace = make_workspace(tmp_path_factory.mktemp("many"))
    run(workspace, MANY)
    return sha256(workspace)


def start(workspace: Workspace, preamble: str = "") -> subprocess.Popen[bytes]:
    """Run `MANY` in a process of its own."""
    code = (
        "import os, pathlib, signal, sys\n"
        "from depthgen.composite import CompositeOptions, run\n"
        "from depthgen.workspace import Workspace\n"
        f"{preamble}\n"
        "run(Workspace(sys.argv[1]), CompositeOptions(placements=60, workers=2))\n"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(workspace.root)], cwd=ROOT)


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def wait_until_gone(pids: list[int], timeout_s: float = 5.0) -> list[int]:
    deadline = time.monotonic() + timeout_s
    left = pids
    while left and time.monotonic() < deadline:
        left = [pid for pid in left if is_running(pid)]
        time.sleep(0.02)
    return left


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_kills_at_random_moments_cost_nothing_and_leave_no_orphan(
    tmp_path: Path, many: list[str]
) -> None:
    workspace = make_workspace(tmp_path)
    draw = random.Random(0)
    partial = workspace.root / "fg_bg.zip.partial"
    killed = 0
    for _ in range(8):
        process = start(workspace)
        size = partial.stat().st_size if partial.exists() else 0
        while process.poll() is None and (not partial.exists() or partial.stat().st_size <= size):
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.05))
        workers = children(process.pid)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        assert wait_until_gone(workers) == []
    assert killed >= 1
    assert start(workspace).wait() == 0
    assert sha256(workspace) == many
    assert not workspace.lock.exists()
    assert not list(tmp_path.glob("*.partial"))


def test_a_kill_between_the_two_renames_completes_the_other_archive(
    tmp_path: Path, many: list[str]
) -> None:
    workspace = make_workspace(tmp_path)
    # The process kills itself right after the first archive has got its name.
    preamble = (
        "replace = pathlib.Path.replace\n"
        "def once(self, target):\n"
        "    result = replace(self, target)\n"
        "    if str(target).endswith('fg_bg.zip'): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return result\n"
        "pathlib.Path.replace = once\n"
    )
    assert start(workspace, preamble).wait() == -signal.SIGKILL
    assert workspace.archive("fg_bg").exists()
    assert not workspace.archive("fg_bg_mask").exists()
    run(workspace, MANY)
    assert sha256(workspace) == many
    assert not workspace.lock.exists()


def test_a_half_written_mask_archive_is_completed_beside_a_closed_one(
    made: Workspace, tmp_path: Path
) -> None:
    workspace = make_workspace(tmp_path)
    options = CompositeOptions(placements=5, workers=1, quality=85)
    run(workspace, options)
    mask = workspace.archive("fg_bg_mask")
    whole = mask.read_bytes()
    mask.unlink()
    mask.with_name(mask.name + ".partial").write_bytes(whole[: len(whole) // 3])
    run(workspace, options)
    assert sha256(workspace) == sha256(made)


def test_a_killed_worker_stops_the_stage_with_the_units_name(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    code = (
        "import sys\n"
        "from depthgen.composite import CompositeOptions, run\n"
        "from depthgen.workspace import Workspace\n"
        "try:\n"
        "    run(Workspace(sys.argv[1]), CompositeOptions(placements=3000, workers=2))\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(workspace.root)], cwd=ROOT, stdout=subprocess.PIPE
    )
    while len(workers := children(process.pid)) < 2 and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(workers[0], signal.SIGKILL)
    out, _ = process.communicate(timeout=30)
    assert b"WorkerError a worker died (signal 9) on fg_00" in out
    assert wait_until_gone(workers) == []
