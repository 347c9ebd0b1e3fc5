"""Bad input of the chain: one sentence for each thing that is wrong, and nothing lost."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from depthgen import images
from tests.command_line import cutout, fill, prepared, room, said
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Run


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
