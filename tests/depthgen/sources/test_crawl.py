"""Taking pictures from a folder: what is let in, what is refused, what is written down."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from depthgen.errors import OptionsError, StageError
from depthgen.images import decode
from depthgen.prepare.pictures import source_pictures
from depthgen.sources.crawl import CrawlOptions, run
from depthgen.sources.provenance import read_provenance
from depthgen.stage import Manifest
from depthgen.workspace import Workspace

if TYPE_CHECKING:
    from depthgen.workspace import Kind

Pictures = dict[str, bytes]


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def scene(seed: int = 0, size: tuple[int, int] = (48, 40)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    return Image.fromarray(pixels)


def cutout(seed: int = 0, size: int = 64) -> Image.Image:
    picture = scene(seed, (size, size)).convert("RGBA")
    y, x = np.mgrid[:size, :size] - size / 2
    picture.putalpha(Image.fromarray(((x**2 + y**2 < (size / 3) ** 2) * 255).astype(np.uint8)))
    return picture


def with_alpha(alpha: np.ndarray) -> bytes:
    picture = scene(0, alpha.shape[::-1]).convert("RGBA")
    picture.putalpha(Image.fromarray(alpha.astype(np.uint8)))
    return encoded(picture)


def png_claiming(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + body + b"\0\0\0\4IDATabcd\0\0\0\0"


def folder_of(path: Path, pictures: Pictures) -> Path:
    path.mkdir(exist_ok=True)
    for name, data in pictures.items():
        (path / name).write_bytes(data)
    return path


def reasons(workspace: Workspace) -> dict[str, str]:
    return {each.name: each.reason for each in read_provenance(workspace.provenance)}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "w")


def test_pictures_are_numbered_by_sorted_name_and_copied_byte_for_byte(
    workspace: Workspace, tmp_path: Path
) -> None:
    pictures = {"b.jpg": encoded(scene(1), "JPEG"), "a.jpeg": encoded(scene(2)), ".hidden": b"x"}
    origin = folder_of(tmp_path / "in", pictures)
    summary = run(workspace, CrawlOptions("folder", origin=origin))
    folder = workspace.sources("bg")
    assert (folder / "bg_000.png").read_bytes() == pictures["a.jpeg"]
    assert (folder / "bg_001.jpg").read_bytes() == pictures["b.jpg"]
    assert summary.counts["total"] == 2
    first = read_provenance(workspace.provenance)[0]
    assert first.origin == str(origin / "a.jpeg")
    assert first.file == "bg/bg_000.png"
    assert first.sha256 == hashlib.sha256(pictures["a.jpeg"]).hexdigest()
    assert (first.width, first.height, first.bytes) == (48, 40, len(pictures["a.jpeg"]))


def test_each_bad_background_is_refused_with_its_reason_and_the_rest_goes_on(
    workspace: Workspace, tmp_path: Path
) -> None:
    whole = encoded(scene(0, (200, 200)), "JPEG")
    origin = folder_of(
        tmp_path / "in",
        {
            "cut.jpg": whole[: len(whole) // 2],
            "dot.png": encoded(scene(0, (1, 1))),
            "empty.png": b"",
            "good.jpg": whole,
            "huge.png": png_claiming(30_000, 30_000),
            "large.png": png_claiming(9_000, 9_000),
            "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\nshowpage\n",
            "text.png": b"this is no picture\n" * 100,
        },
    )
    summary = run(workspace, CrawlOptions("folder", origin=origin))
    assert summary.counts["added"] == 1
    assert reasons(workspace) == {
        "cut.jpg": "damaged",
        "dot.png": "too small",
        "empty.png": "not a picture",
        "good.jpg": "",
        "huge.png": "too many pixels",
        "large.png": "too many pixels",
        "script.png": "not a picture",
        "text.png": "not a picture",
    }


def test_a_cut_out_needs_real_transparency(workspace: Workspace, tmp_path: Path) -> None:
    clear = np.zeros((64, 64))
    frame, faint, square = clear.copy(), clear.copy(), clear.copy()
    square[10:50, 5:60] = 255
    frame[:] = 255
    faint[np.tril_indices(64)] = 20
    origin = folder_of(
        tmp_path / "in",
        {
            "clear.png": with_alpha(clear),
            "faint.png": with_alpha(faint),
            "good.png": encoded(cutout()),
            "jpeg.jpg": encoded(scene(0, (64, 64)), "JPEG"),
            "opaque.png": with_alpha(frame),
            "square.png": with_alpha(square),
        },
    )
    run(workspace, CrawlOptions("folder", "fg", origin=origin))
    assert reasons(workspace) == {
        "clear.png": "fully transparent",
        "faint.png": "hardly opaque",
        "good.png": "",
        "jpeg.jpg": "no transparency",
        "opaque.png": "no transparency",
        "square.png": "a rectangle in a frame",
    }


def test_unusual_backgrounds_are_taken(workspace: Workspace, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = (np.arange(64 * 48, dtype=np.uint16) * 20).reshape(48, 64)
    origin = folder_of(
        tmp_path / "in",
        {
            "cmyk.jpg": encoded(scene().convert("CMYK"), "JPEG"),
            "deep.png": encoded(Image.fromarray(wide)),
            "grey_alpha.png": encoded(scene().convert("LA")),
            "palette.png": encoded(scene().convert("P"), transparency=0),
            "rotated.jpg": encoded(scene(), "JPEG", exif=exif),
        },
    )
    assert run(workspace, CrawlOptions("folder", origin=origin)).counts["added"] == 5
    rotated = next(
        each for each in read_provenance(workspace.provenance) if each.name == "rotated.jpg"
    )
    assert (rotated.width, rotated.height) == (40, 48)


def test_a_palette_cut_out_with_transparency_is_taken(workspace: Workspace, tmp_path: Path) -> None:
    palette = Image.fromarray(np.array(cutout())[:, :, 3] // 255).convert("P")
    grey = cutout().convert("LA")
    origin = folder_of(
        tmp_path / "in", {"p.png": encoded(palette, transparency=0), "la.png": encoded(grey)}
    )
    assert run(workspace, CrawlOptions("folder", "fg", origin=origin)).counts["added"] == 2


def test_a_second_run_adds_only_what_is_new(workspace: Workspace, tmp_path: Path) -> None:
    origin = folder_of(tmp_path / "in", {"a.png": encoded(scene(1)), "x.png": b"no"})
    run(workspace, CrawlOptions("folder", origin=origin))
    before = workspace.provenance.read_bytes()
    assert run(workspace, CrawlOptions("folder", origin=origin)).counts["added"] == 0
    assert workspace.provenance.read_bytes() == before
    folder_of(origin, {"0.png": encoded(scene(2))})
    assert run(workspace, CrawlOptions("folder", origin=origin)).counts == {
        "offered": 3,
        "added": 1,
        "refused": 1,
        "total": 2,
    }
    assert (workspace.sources("bg") / "bg_001.png").read_bytes() == encoded(scene(2))


def test_count_includes_what_earlier_runs_took(workspace: Workspace, tmp_path: Path) -> None:
    origin = folder_of(tmp_path / "in", {f"{n}.png": encoded(scene(n)) for n in range(4)})
    for count, added in ((2, 2), (2, 0), (3, 1)):
        assert (
            run(workspace, CrawlOptions("folder", origin=origin, count=count)).counts["added"]
            == added
        )


def test_fewer_than_asked_is_an_error_with_counts_and_the_good_ones_stay(
    workspace: Workspace, tmp_path: Path
) -> None:
    origin = folder_of(tmp_path / "in", {"a.png": encoded(scene(1)), "x.png": b"no"})
    with pytest.raises(
        StageError, match=r"gave 1 backgrounds of the 5 asked .*1 not a picture.*--count 1"
    ):
        run(workspace, CrawlOptions("folder", origin=origin, count=5))
    assert (workspace.sources("bg") / "bg_000.png").exists()


def test_none_at_all_is_an_error(workspace: Workspace, tmp_path: Path) -> None:
    origin = folder_of(tmp_path / "in", {})
    with pytest.raises(StageError, match="holds no file"):
        run(workspace, CrawlOptions("folder", origin=origin))
    with pytest.raises(StageError, match="not a folder"):
        run(workspace, CrawlOptions("folder", origin=origin / "missing"))
    folder_of(origin, {"x.png": b"no"})
    with pytest.raises(StageError, match="gave 0"):
        run(workspace, CrawlOptions("folder", origin=origin))


def test_duplicates_are_kept_and_linked_across_runs(workspace: Workspace, tmp_path: Path) -> None:
    data = encoded(scene())
    run(
        workspace,
        CrawlOptions("folder", origin=folder_of(tmp_path / "in", {"a.png": data, "b.png": data})),
    )
    summary = run(
        workspace, CrawlOptions("folder", origin=folder_of(tmp_path / "two", {"c.png": data}))
    )
    links = [(each.file, each.duplicate_of) for each in read_provenance(workspace.provenance)]
    assert links == [
        ("bg/bg_000.png", ""),
        ("bg/bg_001.png", "bg/bg_000.png"),
        ("bg/bg_002.png", "bg/bg_000.png"),
    ]
    assert "same bytes" in summary.notes[0]


def test_dedupe_drops_duplicates(workspace: Workspace, tmp_path: Path) -> None:
    data = encoded(scene())
    origin = folder_of(tmp_path / "in", {"a.png": data, "b.png": data})
    assert run(workspace, CrawlOptions("folder", origin=origin, dedupe=True)).counts["total"] == 1
    assert reasons(workspace)["b.png"] == "duplicate"


def test_a_kill_between_copy_and_line_loses_and_doubles_nothing(
    workspace: Workspace, tmp_path: Path
) -> None:
    origin = folder_of(tmp_path / "in", {f"{n}.png": encoded(scene(n)) for n in range(3)})
    run(workspace, CrawlOptions("folder", origin=origin))
    lines = workspace.provenance.read_bytes().splitlines(keepends=True)
    workspace.provenance.write_bytes(lines[0] + lines[1] + lines[2][:25])
    assert len(read_provenance(workspace.provenance)) == 2
    assert run(workspace, CrawlOptions("folder", origin=origin)).counts["total"] == 3
    files = [each.file for each in read_provenance(workspace.provenance)]
    assert files == ["bg/bg_000.png", "bg/bg_001.png", "bg/bg_002.png"]


def test_a_twin_that_a_kill_left_unwritten_is_still_known_for_one(
    workspace: Workspace, tmp_path: Path
) -> None:
    data = encoded(scene())
    origin = folder_of(tmp_path / "in", {"a.png": data, "b.png": data})
    run(workspace, CrawlOptions("folder", origin=origin))
    lines = workspace.provenance.read_bytes().splitlines(keepends=True)
    workspace.provenance.write_bytes(lines[0])
    run(workspace, CrawlOptions("folder", origin=origin))
    links = [(each.file, each.duplicate_of) for each in read_provenance(workspace.provenance)]
    assert links == [("bg/bg_000.png", ""), ("bg/bg_001.png", "bg/bg_000.png")]


def test_depth_maps_that_fit_no_picture_are_told(workspace: Workspace, tmp_path: Path) -> None:
    origin = folder_of(tmp_path / "in", {"a.png": encoded(scene())})
    maps = folder_of(tmp_path / "depth", {"other.png": depth_png()})
    summary = run(workspace, CrawlOptions("folder", origin=origin, depth_origin=maps))
    assert any("names must be the same" in note for note in summary.notes)


def test_a_lost_copy_comes_back_under_its_number(workspace: Workspace, tmp_path: Path) -> None:
    origin = folder_of(tmp_path / "in", {f"{n}.png": encoded(scene(n)) for n in range(2)})
    run(workspace, CrawlOptions("folder", origin=origin))
    (workspace.sources("bg") / "bg_000.png").unlink()
    assert run(workspace, CrawlOptions("folder", origin=origin)).counts["total"] == 2
    assert (workspace.sources("bg") / "bg_000.png").read_bytes() == encoded(scene(0))


def test_a_background_brings_its_depth(workspace: Workspace, tmp_path: Path) -> None:
    origin = folder_of(
        tmp_path / "in", {f"{name}.jpg": encoded(scene(7), "JPEG") for name in "abcd"}
    )
    depth = encoded(Image.fromarray(np.full((40, 48), 2500, np.uint16)))
    stream = io.BytesIO()
    np.save(stream, np.full((40, 48), 2.5, np.float32))
    maps = {"a.png": depth, "b.npy": stream.getvalue(), "c.png": encoded(scene(1))}
    options = CrawlOptions(
        "folder", origin=origin, depth_origin=folder_of(tmp_path / "depth", maps)
    )
    summary = run(workspace, options)
    folder = workspace.sources("bg_depth")
    assert sorted(path.name for path in folder.iterdir()) == ["bg_000.png", "bg_001.npy"]
    assert (folder / "bg_000.png").read_bytes() == depth
    assert any("kept without its depth" in note for note in summary.notes)
    assert [each.depth_file for each in read_provenance(workspace.provenance)] == [
        "bg_depth/bg_000.png",
        "bg_depth/bg_001.npy",
        "",
        "",
    ]


def depth_png(metres: float = 2.5) -> bytes:
    return encoded(Image.fromarray(np.full((40, 48), metres * 1000, np.uint16)))


def test_depth_that_comes_later_joins_its_picture(workspace: Workspace, tmp_path: Path) -> None:
    origin = folder_of(tmp_path / "in", {f"{n}.png": encoded(scene(n)) for n in range(3)})
    run(workspace, CrawlOptions("folder", origin=origin))
    maps = folder_of(tmp_path / "depth", {"1.png": depth_png(), "2.png": b"no depth"})
    options = CrawlOptions("folder", origin=origin, depth_origin=maps)
    summary = run(workspace, options)
    assert (summary.counts["added"], summary.counts["depth"]) == (0, 1)
    assert any("2.png is kept without its depth" in note for note in summary.notes)
    copy = workspace.sources("bg_depth") / "bg_001.png"
    assert copy.read_bytes() == depth_png()
    last = {each.name: each for each in read_provenance(workspace.provenance)}
    assert last["1.png"].depth_file == "bg_depth/bg_001.png"
    assert last["1.png"].file == "bg/bg_001.png"
    assert last["2.png"].depth_problem
    before = workspace.provenance.read_bytes()
    assert run(workspace, options).counts["depth"] == 0
    assert workspace.provenance.read_bytes() == before
    copy.unlink()
    assert run(workspace, options).counts["depth"] == 1
    assert copy.exists()


def test_a_users_own_depth_stays_unless_another_is_brought(
    workspace: Workspace, tmp_path: Path
) -> None:
    own = folder_of(tmp_path / "w", {}) / "sources" / "bg_depth"
    own.mkdir(parents=True)
    for name in ("bg_000.npy", "bg_001.npy", "bg_001.txt"):
        (own / name).write_bytes(b"mine")
    origin = folder_of(tmp_path / "in", {f"{n}.png": encoded(scene(n)) for n in range(2)})
    run(workspace, CrawlOptions("folder", origin=origin))
    assert sorted(path.name for path in own.iterdir()) == ["bg_000.npy", "bg_001.npy", "bg_001.txt"]
    maps = folder_of(tmp_path / "depth", {"1.png": depth_png()})
    run(workspace, CrawlOptions("folder", origin=origin, depth_origin=maps))
    assert sorted(path.name for path in own.iterdir()) == ["bg_000.npy", "bg_001.png", "bg_001.txt"]


def test_a_depth_is_written_after_its_picture(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    intake = "depthgen.sources.intake"
    monkeypatch.setattr(f"{intake}.write_atomically", lambda path, data: written.append(path.name))
    monkeypatch.setattr(
        f"{intake}.write_all_atomically",
        lambda files: written.extend(path.name for path, _ in files),
    )
    origin = folder_of(tmp_path / "in", {"a.jpg": encoded(scene(), "JPEG")})
    maps = folder_of(tmp_path / "depth", {"a.png": depth_png()})
    run(workspace, CrawlOptions("folder", origin=origin, depth_origin=maps))
    assert written == ["bg_000.jpg", "bg_000.png"]


@pytest.mark.parametrize(
    "hole", [np.uint16(0), np.uint8(0), np.float32(0), np.float32("nan"), np.float32(-1)], ids=repr
)
def test_depth_with_holes_is_refused_with_the_reason(
    workspace: Workspace, tmp_path: Path, hole: np.generic
) -> None:
    depth = np.full((40, 48), 3, hole.dtype)
    depth[0, 0] = hole
    stream = io.BytesIO()
    np.save(stream, depth)
    floats = depth.dtype == np.float32
    name, data = ("a.npy", stream.getvalue()) if floats else ("a.png", encoded_depth(depth))
    origin = folder_of(tmp_path / "in", {"a.png": encoded(scene())})
    maps = folder_of(tmp_path / "depth", {name: data})
    summary = run(workspace, CrawlOptions("folder", origin=origin, depth_origin=maps))
    assert summary.counts["depth"] == 0
    assert "1 pixels without a depth" in summary.notes[0]
    assert not workspace.sources("bg_depth").exists()


def encoded_depth(depth: np.ndarray) -> bytes:
    return encoded(Image.fromarray(depth))


def test_a_folder_with_a_pictures_name_is_no_picture(workspace: Workspace, tmp_path: Path) -> None:
    (workspace.sources("bg") / "bg_000.old").mkdir(parents=True)
    origin = folder_of(tmp_path / "in", {"a.png": encoded(scene())})
    assert run(workspace, CrawlOptions("folder", origin=origin)).counts["total"] == 1
    assert [path.name for path in source_pictures(workspace, "bg")] == ["bg_000.png"]


def test_a_link_to_nowhere_in_sources_is_one_sentence(workspace: Workspace, tmp_path: Path) -> None:
    workspace.sources("bg").mkdir(parents=True)
    (workspace.sources("bg") / "bg_000.png").symlink_to(tmp_path / "nowhere")
    origin = folder_of(tmp_path / "in", {"a.png": encoded(scene())})
    with pytest.raises(StageError, match=r"cannot read .*bg_000\.png"):
        run(workspace, CrawlOptions("folder", origin=origin))


def test_names_that_are_not_utf_8_are_taken(workspace: Workspace, tmp_path: Path) -> None:
    origin = folder_of(tmp_path / "in", {})
    for name in (b"\xe4.png", b"\xf6.png"):
        Path(os.fsdecode(os.fsencode(origin) + b"/" + name)).write_bytes(encoded(scene()))
    assert run(workspace, CrawlOptions("folder", origin=origin)).counts["added"] == 2
    manifest = Manifest.read(workspace.manifest("crawl_bg"))
    assert manifest is not None
    assert "same bytes" in manifest.notes[0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"source": "gopher"}, "use --source bing, google"),
        ({"source": "folder"}, "--from DIR"),
        ({"source": "urls"}, "--from FILE"),
        ({"origin": Path("x")}, "--source folder or --source urls"),
        ({"source": "folder", "origin": Path("x"), "keywords": ("cat",)}, "leave --keyword"),
        ({"source": "urls", "origin": Path("x"), "license": "commercial"}, "leave --keyword"),
        ({"kind": "both"}, "kind must be fg or bg"),
        ({"keywords": (" ",)}, "a keyword is empty"),
        ({"source": "flickr"}, "--flickr-key or \\$FLICKR_API_KEY"),
        ({"count": 0}, "--count"),
        ({"threads": 0}, "--threads"),
        ({"max_bytes": 1 << 40}, "1 to 268,435,456"),
        ({"timeout_s": float("inf")}, "--timeout"),
        ({"threads": 60_000}, "--threads"),
        ({"source": "bing", "url_column": "x"}, "--source urls"),
        ({"timeout_s": 0.0}, "--timeout"),
        ({"deadline_s": float("nan")}, "--deadline"),
        ({"retries": -1}, "--retries"),
        ({"per_host_delay_s": -1.0}, "--per-host-delay"),
        ({"kind": "fg", "depth_origin": Path("x")}, "--kind bg"),
        ({"depth_origin": Path("x")}, "--source folder"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionsError, match=words):
        CrawlOptions(**values)


def test_a_key_of_a_person_is_not_written_down() -> None:
    options = CrawlOptions("flickr", flickr_key="secret")
    assert "secret" not in repr(options) + str(options.settings())


@pytest.mark.realdata
@pytest.mark.parametrize("kind", ["fg", "bg"])
def test_all_real_pictures_are_let_in(workspace: Workspace, realdata: Path, kind: Kind) -> None:
    options = CrawlOptions("folder", kind, origin=realdata / kind, count=100)
    assert run(workspace, options).counts["refused"] == 0
    twins = [each for each in read_provenance(workspace.provenance) if each.duplicate_of]
    # Two are equal to the byte; two are one photograph, packed twice.
    assert len(twins) == (2 if kind == "bg" else 0)


def test_what_is_kept_decodes(workspace: Workspace, tmp_path: Path) -> None:
    origin = folder_of(tmp_path / "in", {"a.png": encoded(cutout())})
    run(workspace, CrawlOptions("folder", "fg", origin=origin))
    pixels = decode((workspace.sources("fg") / "fg_000.png").read_bytes(), "RGBA")
    assert np.array_equal(pixels, np.array(cutout()))
