"""The command line as a person meets it: exit codes, one sentence for each thing that is wrong."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import cli
from depthgen import images
from depthgen.archive import ArchiveWriter
from depthgen.console import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Run

ROOT = Path(__file__).parents[1]


def said(result: Run, code: int) -> str:
    """The error's one line, after checking that it is the only thing on standard error."""
    assert result.returncode == code, result.stderr
    assert result.stderr.startswith("Error: "), result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr.strip()


def cutout(side: int = 40) -> Image.Image:
    rgba = np.random.default_rng(side).integers(0, 256, (side, side, 4), np.uint8)
    y, x = np.ogrid[:side, :side]
    rgba[:, :, 3] = np.where((y - side / 2) ** 2 + (x - side / 2) ** 2 < (side / 3) ** 2, 255, 0)
    return Image.fromarray(rgba)


def room(side: int = 48, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


def fill(folder: Path, pictures: dict[str, Image.Image | bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        if isinstance(picture, bytes):
            (folder / name).write_bytes(picture)
        else:
            picture.save(folder / name)
    return folder


def prepared(root: Path, n_bg: int = 2, n_fg: int = 2) -> None:
    """A workspace with bg.zip and fg.zip."""
    with ArchiveWriter(root / "W" / "bg.zip") as backgrounds:
        for number in range(n_bg):
            data = images.encode_jpeg(np.asarray(room(32, number)), 90)
            backgrounds.add(f"bg/bg_{number:03d}.jpg", data)
    with ArchiveWriter(root / "W" / "fg.zip") as cutouts:
        for number in range(n_fg):
            cutouts.add(f"fg/fg_{number:03d}.png", images.encode_png(np.asarray(cutout())))


# --- answering at once ------------------------------------------------------------------------


def test_help_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "cli", "--help"],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    loaded = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "click" in loaded
    assert not loaded & {"numpy", "cv2", "PIL", "torch", "matplotlib", "pydantic", "yaml", "tqdm"}


@pytest.mark.parametrize("command", ["composite", "stats", "crop", "verify", "status"])
def test_stages_do_not_load_torch(command: str, tmp_path: Path) -> None:
    code = (
        "import sys, cli\n"
        f"sys.argv = ['depthgen', '-w', {str(tmp_path / 'W')!r}, '{command}']\n"
        "try: cli.entry()\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "False"


# --- the line between click and the stages ------------------------------------------------------

OPTIONS = {
    "crawl": ("depthgen.sources.crawl", "CrawlOptions"),
    "render": ("depthgen.sources.studio", "RenderOptions"),
    "mask": ("depthgen.prepare.mask", "MaskOptions"),
    "crop": ("depthgen.prepare.crop", "CropOptions"),
    "composite": ("depthgen.composite", "CompositeOptions"),
    "depthmap": ("depthgen.depth", "DepthmapOptions"),
    "resize": ("depthgen.resize", "ResizeOptions"),
    "stats": ("depthgen.stats", "StatsOptions"),
    "verify": ("depthgen.verify", "VerifyOptions"),
}


@pytest.mark.parametrize("command", OPTIONS)
def test_defaults_on_the_command_line_are_the_stages_own(command: str) -> None:
    module, name = OPTIONS[command]
    options = {
        field.name: field.default
        for field in dataclasses.fields(getattr(importlib.import_module(module), name))
    }
    parent = cli.main.make_context("depthgen", [command], resilient_parsing=True)
    each = cli.main.commands[command]
    context = each.make_context(command, [], parent=parent, resilient_parsing=True)
    for name, typed in context.params.items():
        if name in ("dry_run", "as_json"):
            continue
        assert name in options, name
        if typed is not None:  # None leaves it to the stage
            assert typed == options[name], name


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["composite", "--bg", "many"],
        ["composite", "--quality", "101"],
        ["composite", "--scale", "0.6", "0.5"],
        ["composite", "--nonsense"],
        ["crawl", "--source", "folder", "--kind", "fg"],
        ["crawl", "--kind", "fg", "--source", "nowhere"],
        ["crop", "--size", "3"],
        ["depthmap", "--model", "magic"],
        ["render", "--bg", "0", "--fg", "0"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_exits_with_2(
    arguments: list[str], depthgen: Callable[..., Run]
) -> None:
    result = depthgen(*arguments)
    assert result.returncode == 2
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback(depthgen: Callable[..., Run]) -> None:
    result = depthgen("--debug", "composite")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "StageError" in result.stderr


@pytest.mark.parametrize(
    ("command", "next_command"),
    [
        ("mask", "crawl --kind fg"),
        ("crop", "crawl --kind bg"),
        ("composite", "depthgen crop"),
        ("depthmap", "depthgen composite"),
        ("stats", "depthgen"),
        ("resize", "depthgen composite"),
    ],
)
def test_an_empty_workspace_says_what_to_type_first(
    command: str, next_command: str, depthgen: Callable[..., Run], tmp_path: Path
) -> None:
    assert next_command in said(depthgen(command), 1)
    assert not list(tmp_path.glob("W/*.zip*"))


def test_status_and_doctor_speak_json(depthgen: Callable[..., Run]) -> None:
    assert json.loads(depthgen("status", "--json").stdout)
    findings = json.loads(depthgen("doctor", "--json").stdout)
    assert {"python", "numpy", "CPU"} <= {finding["name"] for finding in findings}


def test_train_without_a_file_is_one_sentence(depthgen: Callable[..., Run]) -> None:
    pytest.importorskip("torch")
    assert "nowhere.yaml" in said(depthgen("train", "nowhere.yaml"), 1)


def test_a_wrong_override_is_a_wrong_command_line(
    depthgen: Callable[..., Run], tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    (tmp_path / "a.yaml").write_text("name: a\n")
    assert "nonsense" in said(depthgen("train", "a.yaml", "nonsense"), 2)
    assert "training.epochs" in said(depthgen("train", "a.yaml", "training.epoch=3"), 2)


def test_training_looks_for_archives_in_the_workspace(
    depthgen: Callable[..., Run], tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    (tmp_path / "a.yaml").write_text("name: a\n")
    assert str(tmp_path / "W") in said(depthgen("train", "a.yaml"), 1)


# --- the whole chain, and stopping it -----------------------------------------------------------


def test_the_chain_from_a_folder_to_stats(depthgen: Callable[..., Run], tmp_path: Path) -> None:
    cutouts = fill(tmp_path / "fg", {f"{side}.png": cutout(side) for side in (40, 60)})
    rooms = fill(tmp_path / "bg", {"b.png": room(48, 1), "a.png": room(64, 2)})
    fill(tmp_path / "depth", {})
    for name, side in (("a", 64), ("b", 48)):
        depth = np.full((side, side), 2500, np.uint16)
        Image.fromarray(depth).save(tmp_path / "depth" / f"{name}.png")
    for arguments in (
        ["crawl", "--source", "folder", "--kind", "fg", "--from", cutouts],
        [
            "crawl",
            "--source",
            "folder",
            "--kind",
            "bg",
            "--from",
            rooms,
            "--depth",
            tmp_path / "depth",
        ],
        ["prepare", "--size", "32"],
        ["composite", "--placements", "2", "--workers", "2"],
        ["depthmap"],
        ["resize", "--size", "16"],
        ["stats"],
        ["verify"],
    ):
        result = depthgen(*arguments)
        assert (result.returncode, result.stderr) == (0, ""), arguments
    with zipfile.ZipFile(tmp_path / "W" / "depth_fg_bg.zip") as labels:
        assert len(labels.namelist()) == 2 * 2 * 2 * 2 + 1
    assert "train CONFIG.yaml" in depthgen("status").stdout
    assert json.loads(depthgen("stats", "--json").stdout)
    assert json.loads(depthgen("verify", "--json").stdout)["ok"] is True


def test_dry_run_writes_nothing(depthgen: Callable[..., Run], tmp_path: Path) -> None:
    prepared(tmp_path)
    result = depthgen("composite", "--dry-run")
    assert result.returncode == 0
    assert "160 composites" in result.stdout
    assert sorted(path.name for path in (tmp_path / "W").iterdir()) == ["bg.zip", "fg.zip"]


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_stopping_exits_with_130_and_goes_on_later(
    signal_: signal.Signals, depthgen: Callable[..., Run], tmp_path: Path
) -> None:
    prepared(tmp_path)
    arguments = ["-w", str(tmp_path / "W"), "composite", "--placements", "2000", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    partial = tmp_path / "W" / "fg_bg.zip.partial"
    while not (partial.exists() and partial.stat().st_size):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal_)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert stderr.strip() == "Stopped. Type the same command again to go on."
    assert not (tmp_path / "W" / "lock").exists()
    assert partial.exists()
    assert depthgen("composite", "--placements", "2000").returncode == 0
    assert depthgen("verify").returncode == 0


# --- bad input ----------------------------------------------------------------------------------


def test_an_empty_folder(depthgen: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty" in said(
        depthgen("crawl", "--source", "folder", "--kind", "fg", "--from", tmp_path / "empty"), 1
    )
    assert "nowhere" in said(
        depthgen("crawl", "--source", "folder", "--kind", "fg", "--from", tmp_path / "nowhere"), 1
    )


def test_37_backgrounds_when_100_are_asked(depthgen: Callable[..., Run], tmp_path: Path) -> None:
    rooms = fill(tmp_path / "bg", {f"{number:03d}.png": room(40, number) for number in range(37)})
    result = depthgen(
        "crawl", "--source", "folder", "--kind", "bg", "--from", rooms, "--count", "100"
    )
    sentence = said(result, 1)
    assert "37" in sentence
    assert "100" in sentence
    assert len(list((tmp_path / "W" / "sources" / "bg").iterdir())) == 37
    prepared(tmp_path / "other", n_bg=3)
    result = depthgen("-w", tmp_path / "other" / "W", "composite", "--bg", "100")
    assert "has 3 pictures and --bg asks for 100" in said(result, 1)


def bad_pictures() -> dict[str, Image.Image | bytes]:
    stream = zlib.compress(b"\0" * 100)
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    huge = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")
    )
    jpeg = images.encode_jpeg(np.asarray(room(200)), 90)
    return {
        "huge.png": huge,
        "text.png": b"this is no picture\n",
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "zero.png": b"",
        "one.png": room(1),
    }


def test_bad_pictures_are_refused_with_a_reason_and_the_rest_goes_on(
    depthgen: Callable[..., Run], tmp_path: Path
) -> None:
    rooms = fill(tmp_path / "bg", {**bad_pictures(), "good.png": room()})
    result = depthgen("crawl", "--source", "folder", "--kind", "bg", "--from", rooms)
    assert (result.returncode, result.stderr) == (0, "")
    assert "refused" in result.stdout
    lines = (tmp_path / "W" / "sources" / "sources.jsonl").read_text().splitlines()
    verdicts = {line["name"]: line for line in map(json.loads, lines)}
    assert verdicts.pop("good.png")["verdict"] == "kept"
    assert len(verdicts) == 5
    assert all(line["verdict"] == "refused" and line["reason"] for line in verdicts.values())
    only_bad = fill(tmp_path / "bad", bad_pictures())
    assert "refused" in said(
        depthgen("crawl", "--source", "folder", "--kind", "bg", "--from", only_bad), 1
    )


def test_unusual_pictures_are_handled(depthgen: Callable[..., Run], tmp_path: Path) -> None:
    rotated = Image.Exif()
    rotated[0x0112] = 6
    rooms = tmp_path / "bg"
    rooms.mkdir()
    room(48, 1).convert("CMYK").save(rooms / "cmyk.jpg")
    room(48, 2).save(rooms / "rotated.jpg", exif=rotated)
    wide = np.random.default_rng(0).integers(0, 65536, (40, 40)).astype(np.uint16)
    Image.fromarray(wide).save(rooms / "wide.png")
    cutouts = tmp_path / "fg"
    cutouts.mkdir()
    cutout(50).convert("LA").save(cutouts / "grey_alpha.png")
    palette = cutout(52).convert("RGB").quantize(32)
    palette.save(cutouts / "palette.png", transparency=0)
    for kind, folder in (("bg", rooms), ("fg", cutouts)):
        result = depthgen("crawl", "--source", "folder", "--kind", kind, "--from", folder)
        assert (result.returncode, result.stderr) == (0, "")
        assert "refused 0" in result.stdout
    for command in (["prepare", "--size", "32"], ["composite", "--placements", "1"], ["verify"]):
        result = depthgen(*command)
        assert (result.returncode, result.stderr) == (0, ""), result.stderr


def test_a_cutout_that_cannot_be_seen(depthgen: Callable[..., Run], tmp_path: Path) -> None:
    clear = np.zeros((40, 40, 4), np.uint8)
    folder = fill(tmp_path / "fg", {"clear.png": Image.fromarray(clear)})
    assert "fully transparent" in said(
        depthgen("crawl", "--source", "folder", "--kind", "fg", "--from", folder), 1
    )


def test_a_full_disk_is_one_sentence_and_loses_nothing(
    depthgen: Callable[..., Run], tmp_path: Path
) -> None:
    prepared(tmp_path)
    limit = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))\n"
    )
    arguments = ("composite", "--placements", "100", "--workers", "2")
    sentence = said(depthgen(*arguments, before=limit), 1)
    assert "fg_bg.zip.partial" in sentence
    assert "make room and run the same command again" in sentence
    assert not (tmp_path / "W" / "fg_bg.zip").exists()
    assert not (tmp_path / "W" / "lock").exists()
    assert depthgen(*arguments).returncode == 0
    assert depthgen("verify").returncode == 0


def test_a_second_command_in_the_same_workspace(
    depthgen: Callable[..., Run], tmp_path: Path
) -> None:
    prepared(tmp_path)
    hold = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from depthgen.lock import hold_lock\n"
        "with hold_lock(Path(sys.argv[1])):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "W" / "lock")],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert f"process {holder.pid}" in said(depthgen("composite"), 1)
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
    assert depthgen("composite", "--placements", "1").returncode == 0


def test_other_options_than_before(depthgen: Callable[..., Run], tmp_path: Path) -> None:
    prepared(tmp_path)
    assert depthgen("composite", "--placements", "1").returncode == 0
    sentence = said(depthgen("composite", "--placements", "2"), 1)
    assert "placements was 1, now 2" in sentence
    assert "--overwrite" in sentence


@pytest.mark.parametrize("damage", ["truncated", "encrypted", "text"])
def test_a_broken_archive(damage: str, depthgen: Callable[..., Run], tmp_path: Path) -> None:
    prepared(tmp_path)
    path = tmp_path / "W" / "bg.zip"
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        data = data[: len(data) // 2]
    elif damage == "encrypted":
        data[data.rindex(b"PK\x01\x02") + 8] |= 1
    else:
        data = bytearray(b"this is no archive\n")
    path.write_bytes(data)
    assert "bg.zip" in said(depthgen("composite"), 1)
    assert not list((tmp_path / "W").glob("fg_bg*"))


def test_help_of_every_command_works() -> None:
    for name in cli.main.commands:
        result = CliRunner().invoke(cli.main, [name, "--help"], obj=Session())
        assert result.exit_code == 0
