"""Sample numbers, member names and paths go both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depthgen.workspace import (
    Layout,
    Member,
    SampleId,
    Workspace,
    labels_member,
    parse_member,
    parse_picture,
    picture_member,
    sample_member,
)

if TYPE_CHECKING:
    from pathlib import Path

    from depthgen.workspace import Kind

sizes = st.integers(1, 7)


@given(st.builds(Layout, sizes, sizes, sizes, st.integers(1, 2)))
def test_indices_count_flips_in_placements_in_cutouts_in_backgrounds(layout: Layout) -> None:
    samples = [
        SampleId(bg, fg, placement, flip)
        for bg in range(layout.n_bg)
        for fg in range(layout.n_fg)
        for placement in range(layout.placements)
        for flip in range(layout.flips)
    ]
    assert layout.samples == len(samples) == layout.n_bg * layout.per_background
    assert layout.per_background == layout.n_fg * layout.per_pair
    assert [layout.sample(index) for index in range(layout.samples)] == samples
    assert [layout.index(sample) for sample in samples] == list(range(layout.samples))


def test_the_full_set_has_400_000_samples() -> None:
    layout = Layout(100, 100, 20)
    assert layout.samples == 400_000
    assert layout.index(SampleId(7, 12, 10, 0)) == ((7 * 100 + 12) * 20 + 10) * 2


@given(
    st.sampled_from(["fg_bg", "fg_bg_mask", "depth_fg_bg"]),
    st.builds(Member, *[st.integers(0, 10**7)] * 3),
    st.sampled_from([".jpg", ".png"]),
)
def test_a_sample_members_name_tells_what_it_was_made_of(
    archive: str, member: Member, suffix: str
) -> None:
    name = sample_member(archive, member, suffix)
    assert parse_member(name) == member
    assert name.startswith(f"{archive}/bg_")


@pytest.mark.parametrize(
    ("archive", "name"),
    [
        ("fg_bg", "fg_bg/bg_007/fg_012_bg_007_028500.jpg"),
        ("fg_bg_mask", "fg_bg_mask/bg_007/fg_012_bg_007_mask_028500.jpg"),
        ("depth_fg_bg", "depth_fg_bg/bg_007/fg_012_bg_007_depth_028500.jpg"),
    ],
)
def test_names_are_as_specified(archive: str, name: str) -> None:
    assert sample_member(archive, Member(12, 7, 28500), ".jpg") == name


@pytest.mark.parametrize(
    "name",
    [
        "depth_dataset_cleaned/fg_bg/bg_007/fg_012_bg_007_028500.jpg",
        "depth_dataset_cleaned/fg_bg_mask/bg_007/fg_012_bg_007_mask_028500.jpg",
        "mask_fg_bg/bg_007/mask_fg_012_bg_007_028500.png",
    ],
)
def test_the_originals_names_are_read_too(name: str) -> None:
    assert parse_member(name) == Member(12, 7, 28500)


@pytest.mark.parametrize(
    "name",
    [
        labels_member(7), "labels/depth_fg_bg_info.json", "bg/bg_007.jpg", "", "fg_012_bg_007_.jpg",
        "fg_1_bg_2_3.jpg\n", "fg_1_bg_2_3.txt", "xfg_1_bg_2_3.jpg", "fg_١_bg_2_3.jpg",
        "fg_bg/bg_007/",
    ],
)  # fmt: skip
def test_no_other_name_is_taken_for_a_sample(name: str) -> None:
    assert parse_member(name) is None


@given(st.sampled_from(["bg", "fg"]), st.integers(0, 10**5))
def test_a_picture_members_name_tells_its_kind_and_number(kind: Kind, number: int) -> None:
    assert parse_picture(picture_member(f"{kind}_mask", kind, number, ".png")) == (kind, number)


@pytest.mark.parametrize(
    "name", ["bg/bg_007.jpg\n", "bg/xbg_007.jpg", "bg/bg_.jpg", "bg_007", labels_member(7)]
)
def test_no_other_name_is_taken_for_a_picture(name: str) -> None:
    assert parse_picture(name) is None


def test_all_paths_lie_below_the_root_and_none_is_made(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    paths = [
        workspace.archive("fg_bg"),
        workspace.sources("bg"),
        workspace.sources("bg_depth"),
        workspace.provenance,
        workspace.manifest("composite"),
        workspace.stats,
        workspace.lock,
        workspace.weights,
        workspace.runs,
        workspace.run_folder("first"),
    ]
    assert len(set(paths)) == len(paths)
    assert all(workspace.root in path.parents for path in paths)
    assert not workspace.root.exists()
