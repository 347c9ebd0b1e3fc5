"""Agreement of label archives, against the formulas written out over all pixels at once."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from depthgen import images
from depthgen.archive import ArchiveWriter, shard_path
from depthgen.depth import agreement_picture
from depthgen.depth.agreement import Agreement, AgreementOptions, run
from depthgen.depth.agreement_sums import fit, zones
from depthgen.errors import OptionsError, StageError
from depthgen.workspace import DEPTH_INFO_MEMBER, Member, sample_member
from tests.command_line import said

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.conftest import Run

SIDE = 20
METRES = {"quantity": "depth_m", "scale_m": 10.0, "bits": 8, "model": "layered", "size": SIDE}
INVERSE = METRES | {"quantity": "inverse_depth_relative", "scale_m": None, "model": "midas"}
RELATIVE = METRES | {"quantity": "depth_relative", "scale_m": None, "model": "other"}
ONE = AgreementOptions(workers=1)
_TOP = {"uint8": 255, "uint16": 65535, "float32": 1}


def labels(count: int, dtype: str, seed: int) -> list[NDArray[Any]]:
    random = np.random.default_rng(seed)
    unit = random.uniform(0.02, 1, (count, SIDE, SIDE))
    return list((unit * _TOP[dtype]).astype(dtype))


def discs(count: int) -> list[NDArray[np.uint8]]:
    y, x = np.mgrid[:SIDE, :SIDE]
    return [
        ((np.hypot(y - 10, x - 4 - k) < 5 + k % 3) * 255).astype(np.uint8) for k in range(count)
    ]


def write(
    path: Path,
    pictures: list[NDArray[Any]],
    info: dict[str, Any] | None = None,
    first: int = 0,
    backwards: bool = False,
) -> Path:
    """An archive of labels, or of masks if the pictures are named so by the path."""
    kind = "fg_bg_mask" if "mask" in path.name else "depth_fg_bg"
    numbered = list(enumerate(pictures, first))
    with ArchiveWriter(path) as writer:
        if info is not None:
            writer.add(DEPTH_INFO_MEMBER, json.dumps(info).encode())
        for index, picture in reversed(numbered) if backwards else numbered:
            if picture.dtype == np.float32:
                stream = io.BytesIO()
                np.save(stream, picture)
                data, suffix = stream.getvalue(), ".npy"
            else:
                data, suffix = images.encode_png(picture), ".png"
            writer.add(sample_member(kind, Member(0, index // 7, index), suffix), data)
    return path


def metres(pictures: list[NDArray[Any]]) -> NDArray[np.float64]:
    return np.array(pictures, np.float64) / _TOP[pictures[0].dtype.name] * 10


def brute_force_regions(masks: list[NDArray[np.uint8]]) -> dict[str, NDArray[np.bool_]]:
    """By the distance of each pixel to all pixels of the other colour."""
    white = np.array(masks) >= 128
    border = np.zeros_like(white)
    y, x = np.mgrid[:SIDE, :SIDE]
    for sample, each in enumerate(white):
        for row, column in np.ndindex(each.shape):
            other = each != each[row, column]
            gaps = np.hypot(y - row, x - column)[other]
            border[sample, row, column] = gaps.size > 0 and gaps.min() <= 3
    everything = np.ones_like(white)
    return {
        "cut-out": white,
        "border": border,
        "rest": ~white & ~border,
        "all": everything,
    }


def brute_force_fitted(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared errors after `numpy.linalg.lstsq` on each picture."""
    errors = []
    for one, other in zip(a, b, strict=True):
        columns = np.stack([one.ravel(), np.ones(one.size)], axis=1)
        found = np.linalg.lstsq(columns, other.ravel(), rcond=None)[0]
        errors.append((columns @ found).reshape(one.shape) - other)
    return np.array(errors) ** 2


def brute_force(
    a: NDArray[np.float64], b: NDArray[np.float64], region: NDArray[np.bool_]
) -> dict[str, float]:
    fitted = brute_force_fitted(a, b)[region]
    a, b = a[region], b[region]
    # Ties of whole numbers (100 to 80 is just 1.25) must not hang on how metres are rounded.
    worse = np.round(np.maximum(a / b, b / a), 12)
    return {
        "absrel": float(np.mean(np.abs(a - b) / b)),
        "rmse": float(np.sqrt(np.mean((a - b) ** 2))),
        "log10": float(np.mean(np.abs(np.log10(a) - np.log10(b)))),
        "delta1": float(np.mean(worse < 1.25)),
        "delta2": float(np.mean(worse < 1.25**2)),
        "delta3": float(np.mean(worse < 1.25**3)),
        "ssi_rmse": float(np.sqrt(np.mean(fitted))),
    }


def compared(
    folder: Path,
    infos: tuple[dict[str, Any], dict[str, Any]],
    dtypes: tuple[str, str] = ("uint8", "uint8"),
    options: AgreementOptions = ONE,
) -> tuple[Agreement, list[NDArray[Any]], list[NDArray[Any]]]:
    firsts, seconds = labels(9, dtypes[0], 1), labels(9, dtypes[1], 2)
    agreement = run(
        write(folder / "a.zip", firsts, infos[0]),
        write(folder / "b.zip", seconds, infos[1]),
        None,
        options,
    )
    return agreement, firsts, seconds


@pytest.mark.parametrize(
    "dtypes", [("uint8", "uint8"), ("uint8", "uint16"), ("float32", "uint16")], ids=str
)
def test_figures_equal_the_formulas_over_all_pixels(tmp_path: Path, dtypes: Any) -> None:
    firsts, seconds, masks = labels(70, dtypes[0], 1), labels(70, dtypes[1], 2), discs(70)
    agreement = run(
        write(tmp_path / "a.zip", firsts, METRES),
        write(tmp_path / "b.zip", seconds, METRES, backwards=True),  # paired by name, not place
        write(tmp_path / "mask.zip", masks),
        ONE,
    )
    a, b = metres(firsts), metres(seconds)
    found = agreement.to_json()["regions"]
    for name, region in brute_force_regions(masks).items():
        expected = brute_force(a, b, region) | {"share": region.mean()}
        assert found[name] == pytest.approx(expected, rel=1e-9), name
    assert agreement.samples == 70


def test_the_fit_follows_any_scale_and_shift(tmp_path: Path) -> None:
    seconds = [each.astype(np.float32) for each in labels(5, "float32", 3)]
    # Another scale and shift for each picture, and one upside down.
    firsts = [(each * (k - 1.5) + 2 * k + 3).astype(np.float32) for k, each in enumerate(seconds)]
    agreement = run(
        write(tmp_path / "a.zip", firsts, RELATIVE),
        write(tmp_path / "b.zip", seconds, METRES),
        None,
        ONE,
    )
    assert agreement.unit == "m"
    assert agreement.regions["all"].ssi_rmse == pytest.approx(0, abs=1e-4)


@given(
    st.lists(st.floats(-5, 5), min_size=3, max_size=20),
    st.floats(-3, 3),
    st.floats(-3, 3),
)
def test_no_other_scale_and_shift_is_better(values: list[float], ds: float, dt: float) -> None:
    a = np.array(values)
    b = np.cos(a * 3) + np.arange(a.size)
    scale, shift = fit(a, b)
    best = np.sum((scale * a + shift - b) ** 2)
    assert best <= np.sum(((scale + ds) * a + shift + dt - b) ** 2) * (1 + 1e-9) + 1e-9


def test_inverse_depth_is_compared_in_inverse_depth(tmp_path: Path) -> None:
    agreement, firsts, seconds = compared(tmp_path, (INVERSE, METRES), ("uint16", "uint16"))
    a, b = np.array(firsts) / 65535, 1 / metres(seconds)
    expected = np.sqrt(brute_force_fitted(a, b).mean())
    figures = agreement.regions["all"]
    assert figures.ssi_rmse == pytest.approx(expected, rel=1e-9)
    assert np.isnan([figures.absrel, figures.rmse, figures.log10, figures.delta1]).all()
    assert agreement.unit == "1/m"
    assert "midas: known up to scale and shift only" in agreement.table()
    assert json.loads(json.dumps(agreement.to_json()))["regions"]["all"]["absrel"] is None


def test_metres_against_inverse_truth_are_turned_over(tmp_path: Path) -> None:
    agreement, firsts, seconds = compared(tmp_path, (METRES, INVERSE))
    expected = np.sqrt(brute_force_fitted(1 / metres(firsts), np.array(seconds) / 255).mean())
    assert agreement.regions["all"].ssi_rmse == pytest.approx(expected, rel=1e-9)
    assert agreement.unit == "label"


def test_a_ratio_of_just_five_quarters_is_not_within_it(tmp_path: Path) -> None:
    pictures = [np.full((4, 4), value, np.uint8) for value in (80, 100)]
    paths = [write(tmp_path / f"{k}.zip", [each], METRES) for k, each in enumerate(pictures)]
    for one, other in (paths, paths[::-1]):
        assert run(one, other, None, ONE).regions["all"].delta1 == 0
    assert run(paths[0], paths[1], None, ONE).regions["all"].absrel == pytest.approx(0.2)


def test_an_archive_agrees_with_itself_in_full(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", labels(3, "uint8", 1), METRES)
    figures = run(path, path, None, ONE).regions["all"]
    assert (figures.absrel, figures.rmse, figures.log10) == (0, 0, 0)
    assert (figures.delta1, figures.delta2, figures.delta3) == (1, 1, 1)
    assert figures.ssi_rmse == pytest.approx(0, abs=1e-12)


def test_workers_and_shards_do_not_change_a_bit(tmp_path: Path) -> None:
    firsts, seconds = labels(130, "uint8", 1), labels(130, "uint8", 2)
    whole = write(tmp_path / "a.zip", firsts, METRES)
    truth = write(tmp_path / "b.zip", seconds, METRES)
    write(shard_path(tmp_path / "c.zip", 0, 2), firsts[:50], METRES)
    write(shard_path(tmp_path / "c.zip", 1, 2), firsts[50:], None, first=50)
    seen: list[tuple[int, int]] = []
    one = run(whole, truth, None, ONE, lambda done, total: seen.append((done, total)))
    two = run(tmp_path / "c.zip", truth, None, AgreementOptions(workers=2))
    assert one == two
    assert seen == [(64, 130), (128, 130), (130, 130)]


def test_the_worst_samples_are_named_in_order(tmp_path: Path) -> None:
    seconds = [np.full((6, 6), 100, np.uint8) for _ in range(5)]
    firsts = [np.full((6, 6), 100 + step, np.uint8) for step in (3, 50, 0, 20, 10)]
    agreement = run(
        write(tmp_path / "a.zip", firsts, METRES),
        write(tmp_path / "b.zip", seconds, METRES),
        None,
        AgreementOptions(worst=2, workers=1),
    )
    names = [sample_member("depth_fg_bg", Member(0, 0, index), ".png") for index in (1, 3)]
    assert [each.name for each in agreement.worst] == names
    assert [each.score for each in agreement.worst] == pytest.approx([0.5, 0.2])
    assert agreement.median.score == pytest.approx(0.1)
    assert names[0] in agreement.table()


@pytest.mark.parametrize("infos", [(METRES, METRES), (INVERSE, METRES)], ids=["metres", "inverse"])
def test_a_picture_is_drawn_and_is_the_same_each_time(tmp_path: Path, infos: Any) -> None:
    options = AgreementOptions(picture=tmp_path / "deep" / "look.png", workers=1)
    assert options.picture is not None
    drawn = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        compared(tmp_path / name, infos, options=options)
        drawn.append(options.picture.read_bytes())
    assert drawn[0] == drawn[1]
    with Image.open(options.picture) as picture:
        assert picture.width > 800
        assert len(picture.getcolors(1 << 24) or ()) > 100


def test_the_command_prints_the_table_or_json_and_draws_where_it_is_told(
    tmp_path: Path, typed: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement_picture, "draw", lambda *_: b"a picture")
    a = write(tmp_path / "a.zip", labels(9, "uint8", 1), METRES)
    b = write(tmp_path / "b.zip", labels(9, "uint8", 2), METRES)
    masks = write(tmp_path / "W" / "fg_bg_mask.zip", discs(9))
    command = ("-w", "W", "depth-agreement", a, b, "--workers", "1")
    table = typed(*command, "--picture", "drawn.png", "--worst", "2")
    assert (table.returncode, table.stderr) == (0, "")
    expected = run(a, b, masks, AgreementOptions(worst=2, workers=1))
    assert table.stdout == f"{expected.table()}\n  drawn.png\n"
    assert (tmp_path / "drawn.png").read_bytes() == b"a picture"
    whole = run(a, b, masks, ONE)
    found = json.loads(typed(*command, "--json", "--picture", "drawn.png").stdout)
    assert found == json.loads(json.dumps(whole.to_json()))
    masks.rename(tmp_path / "others.zip")
    assert "fg_bg_mask.zip is missing" in said(typed(*command), 1)
    assert typed(*command, "--masks", "others.zip").stdout == f"{whole.table()}\n"


def test_a_mask_without_white_leaves_its_regions_empty(tmp_path: Path) -> None:
    agreement = run(
        write(tmp_path / "a.zip", labels(1, "uint8", 1), METRES),
        write(tmp_path / "b.zip", labels(1, "uint8", 2), METRES),
        write(tmp_path / "mask.zip", [np.zeros((SIDE, SIDE), np.uint8)]),
        ONE,
    )
    assert agreement.to_json()["regions"]["cut-out"]["absrel"] is None
    assert agreement.regions["rest"] == agreement.regions["all"]
    assert "–" in agreement.table()


def test_the_side_of_the_picture_is_no_edge() -> None:
    assert (zones(np.full((9, 9), 255, np.uint8)) == 3).all()


def test_what_cannot_be_compared_is_one_sentence(tmp_path: Path) -> None:
    firsts = labels(3, "uint8", 1)
    good = write(tmp_path / "good.zip", firsts, METRES)
    mask = write(tmp_path / "mask.zip", discs(3))
    small = [np.full((4, 6), 9, np.uint8)] * 3
    hole = [np.zeros((SIDE, SIDE), np.uint8), *firsts[1:]]
    nan = [np.full((SIDE, SIDE), np.nan, np.float32)] * 3
    wrong: list[tuple[Path, Path | None, str]] = [
        (tmp_path / "none.zip", mask, r"none.zip is missing; run `depthgen depthmap`"),
        (good, tmp_path / "nomask.zip", r"nomask.zip is missing; run `depthgen composite`"),
        (write(tmp_path / "mute.zip", firsts), mask, "has no labels/depth_fg_bg_info.json"),
        (write(tmp_path / "odd.zip", firsts, {"model": 1}), mask, "info.json is damaged"),
        (write(tmp_path / "bare.zip", [], METRES), mask, "holds no sample"),
        (write(tmp_path / "few.zip", firsts[:2], METRES), mask, r"000002 is in .*good.zip and not"),
        (write(tmp_path / "small.zip", small, METRES), mask, "20 × 20 in .* and 6 × 4 in"),
        (
            write(tmp_path / "hole.zip", hole, METRES),
            mask,
            "_000000.png has pixels without a depth",
        ),
        (write(tmp_path / "nan.zip", nan, METRES), mask, "_000000.npy has pixels without a depth"),
        (good, write(tmp_path / "mask2.zip", discs(2)), "mask2.zip has no .*mask_000002; give"),
        (
            good,
            write(tmp_path / "mask3.zip", small),
            "mask_000000.png is 6 × 4 and its label 20 × 20",
        ),
    ]
    for second, masks, sentence in wrong:
        with pytest.raises(StageError, match=sentence):
            run(good, second, masks, ONE)
    with pytest.raises(StageError, match="without a unit neither can be turned into the other"):
        run(
            write(tmp_path / "i.zip", firsts, INVERSE),
            write(tmp_path / "r.zip", firsts, RELATIVE),
            None,
            ONE,
        )


@pytest.mark.parametrize("wrong", [{"worst": 0}, {"workers": 0}], ids=str)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionsError):
        AgreementOptions(**wrong)
