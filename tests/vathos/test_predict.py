"""Prediction: sizes, padding and files, against the network itself and against Pillow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from depthgen.images import ImageError
from tests.vathos.checkpoints import QUANTITY, drawn_network, save_checkpoint
from vathos.errors import CheckpointError, DataError, UsageError
from vathos.predict import (
    Left,
    Network,
    Predictor,
    Written,
    find_pairs,
    load_network,
    predict_pairs,
)
from vathos.trainer.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def pictures(height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    draw = np.random.default_rng(height * width)
    bg, fg_bg = draw.integers(0, 256, (2, height, width, 3), np.uint8)
    return bg, fg_bg


class Ramp(nn.Module):
    """Logits that are the row's number; remembers what it was shown."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.shown = x
        rows = torch.arange(x.shape[2], dtype=torch.float32)[:, None].expand(x.shape[2:])
        logits = rows.expand(len(x), 1, *x.shape[2:])
        return logits, -logits


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(Network(drawn_network("ResUNet"), "ResUNet", (32, 32), dict(QUANTITY)))


def test_at_its_own_size_a_picture_gets_what_the_network_says(predictor: Predictor) -> None:
    bg, fg_bg = pictures(48, 32)
    mask, depth = predictor(bg, fg_bg, "full")
    pair = np.concatenate([bg, fg_bg], axis=2).transpose(2, 0, 1)[None] / 255
    with torch.no_grad():
        depth_logits, mask_logits = predictor.model(torch.from_numpy(pair).float())
    assert mask.dtype == depth.dtype == np.float32
    assert np.allclose(mask, torch.sigmoid(mask_logits)[0, 0], atol=1e-6)
    assert np.allclose(depth, torch.sigmoid(depth_logits)[0, 0], atol=1e-6)
    assert np.ptp(mask) > 0.01


@pytest.mark.parametrize("side", [None, "full"])
def test_an_array_may_be_a_view_or_read_only(predictor: Predictor, side: Any) -> None:
    bg, fg_bg = pictures(48, 40)
    views = [each[::-1, :, ::-1] for each in (bg, fg_bg)]
    copies = [each.copy() for each in views]
    for each in views:
        each.flags.writeable = False
    seen, expected = (predictor(first, second, side) for first, second in (views, copies))
    assert all(map(np.array_equal, seen, expected))


@pytest.mark.parametrize(
    ("height", "width", "how"), [(33, 50, "reflect"), (40, 64, "reflect"), (7, 90, "edge")]
)
def test_what_is_missing_to_16_is_mirrored_and_cut_off_again(
    height: int, width: int, how: Any, predictor: Predictor
) -> None:
    bg, fg_bg = pictures(height, width)
    edges = ((0, -height % 16), (0, -width % 16), (0, 0))
    padded = predictor(np.pad(bg, edges, how), np.pad(fg_bg, edges, how), "full")
    for mine, theirs in zip(predictor(bg, fg_bg, "full"), padded, strict=True):
        assert mine.shape == (height, width)
        assert np.allclose(mine, theirs[:height, :width], atol=1e-6)


@pytest.mark.parametrize(
    ("size", "seen"), [(None, (32, 48)), (48, (48, 80)), ("full", (112, 160)), (100, (112, 160))]
)
def test_the_shorter_side_is_that_of_training_unless_told(size: Any, seen: tuple[int, int]) -> None:
    ramp = Ramp()
    mask, depth = Predictor(Network(ramp, "Ramp", (32, 40)))(*pictures(100, 150), size)
    assert ramp.shown.shape == (1, 6, *seen)
    assert mask.shape == depth.shape == (100, 150)


def test_logits_are_resized_and_not_probabilities() -> None:
    _, depth = Predictor(Network(Ramp(), "Ramp", (16, 16)))(*pictures(32, 32))
    # Row 3 of 32 lies at row 1.25 of 16.
    assert depth[3, 5] == pytest.approx(1 / (1 + np.exp(-1.25)), abs=1e-6)


def test_a_photograph_on_its_side_is_read_upright(tmp_path: Path, predictor: Predictor) -> None:
    rotated = Image.Exif()
    rotated[0x0112] = 6
    bg, fg_bg = pictures(40, 60)
    for name, picture in (("bg.jpg", bg), ("fg_bg.jpg", fg_bg)):
        Image.fromarray(picture).save(tmp_path / name, exif=rotated)
    mask, _ = predictor(tmp_path / "bg.jpg", str(tmp_path / "fg_bg.jpg"))
    assert mask.shape == (60, 40)


def test_bad_pictures_are_refused_by_name(tmp_path: Path, predictor: Predictor) -> None:
    bg, _ = pictures(32, 48)
    with pytest.raises(DataError, match="bg is 48 × 32 and fg_bg 32 × 32"):
        predictor(bg, bg[:, :32])
    with pytest.raises(DataError, match="float64"):
        predictor(bg / 255, bg)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"nowhere\.jpg"):
        predictor(tmp_path / "nowhere.jpg", bg)
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(ImageError, match=r"text\.jpg"):
        predictor(tmp_path / "text.jpg", bg)
    with pytest.raises(UsageError, match="size is 0"):
        predictor(bg, bg, 0)


def folders(root: Path, bg: tuple[str, ...], fg_bg: tuple[str, ...]) -> tuple[Path, Path]:
    for folder, names in (("bg", bg), ("fg_bg", fg_bg)):
        (root / folder).mkdir()
        for number, name in enumerate(names):
            if name.endswith(".txt"):
                (root / folder / name).write_text("a note")
            else:
                side = 32 + 8 * name.startswith("big")
                Image.fromarray(pictures(side, 40)[number % 2]).save(root / folder / name)
    return root / "bg", root / "fg_bg"


def test_pairs_have_one_stem_and_what_has_none_is_named(tmp_path: Path) -> None:
    bg, fg_bg = folders(tmp_path, ("a.jpg", "b.png", "c.jpg"), ("a.png", "b.png", "d.jpg", "x.txt"))
    found = find_pairs(bg, fg_bg)
    assert [(pair.name, pair.bg.name, pair.fg_bg.name) for pair in found.pairs] == [
        ("a", "a.jpg", "a.png"),
        ("b", "b.png", "b.png"),
    ]
    assert len(found.left_out) == 3
    for name in ("c.jpg has no partner", "d.jpg has no partner", "x.txt is not a picture"):
        assert any(name in sentence for sentence in found.left_out)


def test_one_background_serves_a_folder(tmp_path: Path) -> None:
    bg, fg_bg = folders(tmp_path, ("room.jpg",), ("a.png", "b.png"))
    found = find_pairs(bg / "room.jpg", fg_bg)
    assert [(pair.name, pair.bg.name) for pair in found.pairs] == [
        ("a", "room.jpg"),
        ("b", "room.jpg"),
    ]
    assert not found.left_out
    assert find_pairs(bg / "room.jpg", fg_bg / "a.png").pairs[0].name == "a"


def test_what_cannot_be_paired_is_one_sentence(tmp_path: Path) -> None:
    bg, fg_bg = folders(tmp_path, ("a.jpg",), ("b.png", "c.png", "c.jpg"))
    with pytest.raises(UsageError, match="have one name"):
        find_pairs(bg, fg_bg)
    (fg_bg / "c.jpg").unlink()
    with pytest.raises(UsageError, match="no pair"):
        find_pairs(bg, fg_bg)
    with pytest.raises(UsageError, match="does not exist"):
        find_pairs(bg, tmp_path / "nowhere")
    with pytest.raises(UsageError, match="is a folder and"):
        find_pairs(bg, fg_bg / "b.png")


def test_files_hold_mask_depth_and_overlay(tmp_path: Path, predictor: Predictor) -> None:
    bg, fg_bg = folders(tmp_path, ("a.png",), ("a.png",))
    out = tmp_path / "new" / "out"
    (written,) = predict_pairs(predictor, find_pairs(bg, fg_bg).pairs, out)
    assert isinstance(written, Written)
    mask, depth = predictor(bg / "a.png", fg_bg / "a.png")
    with Image.open(out / "a_mask.png") as picture:
        assert picture.mode == "L"
        assert np.array_equal(np.asarray(picture), np.where(mask > 0.5, 255, 0))
    with Image.open(out / "a_depth.png") as picture:
        assert picture.mode == "I;16"
        assert np.abs(np.asarray(picture) / 65535 - depth).max() <= 0.5 / 65535 + 1e-9
    with Image.open(out / "a_overlay.png") as picture:
        assert picture.size == (2 * 40, 32)
    assert sorted(path.name for path in out.iterdir()) == [
        "a_depth.png",
        "a_mask.png",
        "a_overlay.png",
    ]
    assert written.covered == pytest.approx((mask > 0.5).mean())
    assert f"{depth.min() * 10:.2f} to {depth.max() * 10:.2f} m" in written.text(10.0)


def test_a_bad_pair_is_named_and_the_others_are_done(tmp_path: Path, predictor: Predictor) -> None:
    bg, fg_bg = folders(tmp_path, ("a.png", "big.png", "c.png"), ("a.png", "c.png"))
    (fg_bg / "big.png").write_bytes((fg_bg / "c.png").read_bytes())
    (fg_bg / "a.png").write_bytes(b"")
    done = list(predict_pairs(predictor, find_pairs(bg, fg_bg).pairs, tmp_path / "out"))
    assert [type(each) for each in done] == [Left, Left, Written]
    assert isinstance(done[0], Left)
    assert isinstance(done[1], Left)
    assert "a.png is empty" in done[0].reason
    assert "40 × 40" in done[1].reason


def test_out_that_is_a_file_is_refused_before_anything_is_read(
    tmp_path: Path, predictor: Predictor
) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        next(predict_pairs(predictor, [], tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("pictures_there", [("a.png", "a_mask.png"), ("a_depth.png", "a.png")])
def test_no_picture_that_is_read_is_written_over(
    tmp_path: Path, predictor: Predictor, pictures_there: tuple[str, str]
) -> None:
    bg, fg_bg = folders(tmp_path, ("bg.png",), pictures_there)
    before = {path.name: path.read_bytes() for path in fg_bg.iterdir()}
    out = tmp_path / "link"
    out.symlink_to(fg_bg)
    with pytest.raises(UsageError, match=r"link/a_\w+\.png is one of the pictures to read"):
        next(predict_pairs(predictor, find_pairs(bg / "bg.png", fg_bg).pairs, out))
    assert {path.name: path.read_bytes() for path in fg_bg.iterdir()} == before


def test_a_picture_too_large_for_the_memory_is_named_and_the_others_are_done(
    tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def logits(self: Predictor, pair: Tensor) -> tuple[Tensor, Tensor]:
        if pair.shape[2] == 40:
            torch.empty(2**60)  # more than any memory has
        return pair[:, :1], pair[:, :1]

    monkeypatch.setattr(Predictor, "logits", logits)
    bg, fg_bg = folders(tmp_path, ("a.png", "big.png"), ("a.png", "big.png"))
    done = list(predict_pairs(predictor, find_pairs(bg, fg_bg).pairs, tmp_path / "out", "full"))
    assert [type(each) for each in done] == [Written, Left]
    assert isinstance(done[1], Left)
    assert "no room for" in done[1].reason
    assert "big.png at 40 × 40; give a smaller size, such as 32" in done[1].reason


@pytest.mark.parametrize("where", ["_resized", "_resized_logits"])
def test_memory_that_fails_beside_the_network_is_the_same_sentence(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(f"vathos.predict.predictor.{where}", full)
    picture = np.zeros((32, 48, 3), np.uint8)
    with pytest.raises(DataError, match=r"no room for fg_bg at 48 × 32; give a smaller size"):
        predictor(picture, picture)


def test_a_checkpoint_says_what_its_network_is(tmp_path: Path) -> None:
    network = load_network(save_checkpoint(tmp_path / "a.pt", "ResUNet"))
    assert (network.name, network.size, network.metres, network.step) == (
        *("ResUNet", (32, 32), 10.0, 12),
    )
    assert not network.model.training
    assert network.meaning() == "metres = 10 × label"
    relative = Network(network.model, "ResUNet", quantity={"quantity": "depth_relative"})
    assert "without a unit" in relative.meaning()


def test_a_run_folder_stands_for_the_checkpoint_in_it(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model_checkpoint.pt")
    assert load_network(tmp_path).step == 12
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty/model_checkpoint.pt does not exist"):
        load_network(tmp_path / "empty")


def test_a_checkpoint_of_an_earlier_version_loads(tmp_path: Path) -> None:
    model = drawn_network()
    torch.save({"model_name": "TinyNet", "model": model.state_dict()}, tmp_path / "old.pt")
    predictor = Predictor.load(tmp_path / "old.pt", "cpu")
    assert predictor.network.size is None
    assert predictor.side == 192
    assert "does not say" in predictor.network.meaning()


def test_checkpoints_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    whole = save_checkpoint(tmp_path / "whole.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    torch.save(drawn_network().state_dict(), tmp_path / "bare.pt")
    save_checkpoint(tmp_path / "other.pt", model_name="ResUNext")
    save_checkpoint(tmp_path / "wrong.pt", model_name="PlainNet")
    for name, what in (
        ("half.pt", "not a whole checkpoint"),
        ("bare.pt", "does not say which network"),
        ("other.pt", "did you mean ResUNeXt"),
        ("wrong.pt", "does not fit PlainNet"),
        ("nowhere.pt", "does not exist"),
    ):
        with pytest.raises(CheckpointError, match=what) as caught:
            load_network(tmp_path / name)
        assert name in str(caught.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_checkpoint_with_a_damaged_byte_is_one_sentence_or_whole(tmp_path: Path) -> None:
    path = tmp_path / "damaged.pt"
    torch.save({"model": {"weight": torch.zeros(1)}, "step": 1}, path)
    whole = path.read_bytes()
    refused = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            load_checkpoint(path)
        except CheckpointError:
            refused += 1
    assert refused > 100


def test_a_device_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "a.pt")
    for device in ("abacus", "meta"):
        with pytest.raises(UsageError, match=f"the device '{device}' is not there"):
            Predictor.load(path, device)
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="cuda"):
            Predictor.load(path, "cuda")
