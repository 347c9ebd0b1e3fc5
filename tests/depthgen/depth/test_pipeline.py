"""Labelling an archive with a network, against a formula in NumPy; stops, and what goes wrong."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from depthgen import images
from depthgen.archive import Archive, ArchiveError, ArchiveWriter
from depthgen.depth import pipeline
from depthgen.depth.convention import FileEstimator
from depthgen.depth.estimator import EstimatorError
from depthgen.depth.forward import Forward, NotFiniteError
from depthgen.depth.network_plan import plan_network
from depthgen.depth.pipeline import Labelling, read_pictures
from depthgen.depth.quantity import Quantity
from depthgen.depth.run import DepthmapOptions, run
from depthgen.errors import StageError
from depthgen.workspace import DEPTH_INFO_MEMBER, Member, sample_member
from tests.depthgen.depth.composites import (
    Formula,
    FormulaNetwork,
    flip_a_bit,
    formula,
    make_composites,
    pictures_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from depthgen.depth.pipeline import Sample
    from depthgen.stage import Progress, Summary
    from depthgen.workspace import Workspace


def label(
    workspace: Workspace,
    estimator: Formula,
    progress: Progress = lambda done, total: None,
    **wanted: Any,
) -> Summary:
    """Run the stage with a formula for a network."""
    said: dict[str, Any] = {"device": "cpu", "precision": "float32", "forward_batch": 3}
    options = DepthmapOptions(**said | {"workers": 2} | wanted)
    network: Any = FormulaNetwork({estimator.precision: estimator})
    plan = plan_network(workspace, options, network, lambda _: None)
    return run(workspace, options, progress, plan)


def stored(name: str, data: bytes | memoryview) -> NDArray[Any]:
    if name.endswith(".npy"):
        array: NDArray[Any] = np.load(io.BytesIO(data))
        return array
    return np.asarray(Image.open(io.BytesIO(data)))


def labels_of(workspace: Workspace) -> dict[str, NDArray[Any]]:
    """Every label of the archive, in its order."""
    with Archive.open(workspace.archive("depth_fg_bg")) as archive:
        members = zip(archive.names, archive, strict=True)
        return {
            name: stored(name, bytes(data)) for name, data in members if name != DEPTH_INFO_MEMBER
        }


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("full_scale", [1.0, 0.4])
def test_labels_are_the_values_over_full_scale_clipped_and_floored(
    tmp_path: Path, bits: int, shards: int, full_scale: float
) -> None:
    workspace = make_composites(tmp_path, shards=shards)
    summary = label(workspace, Formula(full_scale=full_scale, off=-0.1), bits=bits)
    assert summary.counts == {"samples": 23}
    suffix = ".npy" if bits == 32 else ".png"
    pictures = pictures_of(workspace)
    found = labels_of(workspace)
    assert list(found) == [f"{name}{suffix}" for name in pictures]
    seen = []
    for name, picture in pictures.items():
        wanted = np.clip((formula(picture) - 0.1) / full_scale, 0.01, 1.0)
        got = found[f"{name}{suffix}"]
        if bits == 32:
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, wanted, rtol=1e-6)
        else:
            # float32 and float64 may fall on the two sides of an integer; elsewhere they agree.
            exact = wanted * (2**bits - 1)
            clear = abs(exact - np.round(exact)) > 0.01
            clear |= (wanted == 1.0) | (wanted == 0.01)
            assert clear.mean() > 0.9
            assert np.array_equal(got[clear], np.floor(exact)[clear])
            assert np.abs(got.astype(float) - exact).max() <= 1.01
        seen.append(wanted)
    assert np.min(seen) == 0.01
    assert (np.max(seen) == 1.0) == (full_scale == 0.4)


def test_the_first_file_and_the_manifest_say_what_the_labels_are(tmp_path: Path) -> None:
    workspace = make_composites(tmp_path, shards=3)
    label(workspace, Formula(full_scale=0.5, quantity="inverse_depth_relative"), bits=16)
    with Archive.open(workspace.archive("depth_fg_bg")) as archive:
        assert len(archive.paths) == 3
        assert list(archive.names).count(DEPTH_INFO_MEMBER) == 1
        assert archive.names[0] == DEPTH_INFO_MEMBER
        info = json.loads(bytes(archive[0]))
    assert info == {
        "quantity": "inverse_depth_relative",
        "scale_m": None,
        "bits": 16,
        "model": "formula",
        "size": 16,
        "full_scale": 0.5,
        "weights": "d" * 64,
        "precision": "float32",
    }
    manifest = json.loads(workspace.manifest("depthmap").read_text())
    assert manifest["facts"].items() >= info.items()
    assert manifest["settings"] == {
        "model": "formula",
        "bits": 16,
        "weights": "d" * 64,
        "given": {},
        "precision": "float32",
        "full_scale": 0.5,
        "forward_batch": 3,
    }


@settings(max_examples=15)
@given(
    stops=st.lists(st.integers(0, 23), min_size=1, max_size=3),
    batch=st.integers(1, 30),
    shards=st.sampled_from([1, 2]),
)
def test_stops_anywhere_and_other_batches_change_no_byte(
    tmp_path_factory: pytest.TempPathFactory, stops: list[int], batch: int, shards: int
) -> None:
    whole, stopped = (
        make_composites(tmp_path_factory.mktemp(name), shards=shards) for name in ("whole", "cut")
    )
    label(whole, Formula())

    for number, stop in enumerate(stops):

        def stop_there(done: int, total: int, stop: int = stop) -> None:
            if done >= stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            label(stopped, Formula(), stop_there, batch=batch, workers=1 + number)
    label(stopped, Formula(), batch=batch)
    for name in sorted(path.name for path in whole.root.glob("depth_fg_bg*")):
        assert (stopped.root / name).read_bytes() == (whole.root / name).read_bytes()
    assert not list(stopped.root.glob("*.partial"))


def test_the_batches_of_a_network_begin_at_the_same_samples_after_a_stop(tmp_path: Path) -> None:
    workspace = make_composites(tmp_path)
    with ArchiveWriter(workspace.archive("elsewhere")) as writer:
        writer.add("x", b"")
    whole = Formula()
    label(workspace, whole, forward_batch=5)
    sound = workspace.archive("depth_fg_bg").read_bytes()
    assert whole.seen == [5, 5, 5, 5, 3]
    # As a kill leaves it: the info and seven labels, the last two of a batch that is not whole.
    with Archive(workspace.archive("depth_fg_bg")) as archive:
        kept = [(name, bytes(archive[name])) for name in list(archive.names)[:8]]
    workspace.archive("depth_fg_bg").unlink()
    torn = ArchiveWriter(workspace.archive("depth_fg_bg"))
    for name, data in kept:
        torn.add(name, data)
    torn.suspend()
    rest = Formula()
    seen: list[int] = []
    label(workspace, rest, lambda done, total: seen.append(done), forward_batch=5)
    assert rest.seen == [5, 5, 5, 3]
    assert seen[0] == 5
    assert workspace.archive("depth_fg_bg").read_bytes() == sound


def test_what_is_done_is_not_done_again_and_other_settings_are_refused(tmp_path: Path) -> None:
    workspace = make_composites(tmp_path)
    label(workspace, Formula())
    before = workspace.archive("depth_fg_bg").read_bytes()
    idle = Formula()
    assert label(workspace, idle).already_done
    assert idle.seen == []
    with pytest.raises(StageError, match="bits was 8, now 16"):
        label(workspace, Formula(), bits=16)
    with pytest.raises(StageError, match="forward_batch was 3, now 4"):
        label(workspace, Formula(), forward_batch=4)
    with pytest.raises(StageError, match=r"weights was 'd+', now 'e+'.*--overwrite"):
        label(workspace, Formula(digest="e" * 64))
    assert workspace.archive("depth_fg_bg").read_bytes() == before
    label(workspace, Formula(), bits=16, overwrite=True)
    assert next(iter(labels_of(workspace).values())).dtype == np.uint16


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_stops_at_its_sample(tmp_path: Path, poison: float) -> None:
    workspace = make_composites(tmp_path, samples=60)
    with pytest.raises(StageError, match=r"no number for fg_bg/bg_009/fg_002_bg_009_000047\.png"):
        label(workspace, Formula(poisoned=(47,), poison=poison), batch=6)
    assert not workspace.archive("depth_fg_bg").exists()
    with pytest.raises(StageError, match=r"weights was 'd+', now 'e+'"):
        label(workspace, Formula(digest="e" * 64))
    seen: list[int] = []
    repaired = Formula()
    label(workspace, repaired, lambda done, total: seen.append(done), batch=6)
    assert seen[0] >= 24
    assert sum(repaired.seen) == 60 - seen[0]
    assert len(labels_of(workspace)) == 60


@pytest.mark.parametrize("full_scale", [1.0, None])
@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_a_network_that_fails_where_it_is_measured_is_told_with_the_sample(
    tmp_path: Path, precision: str, full_scale: float | None
) -> None:
    workspace = make_composites(tmp_path)
    broken = Formula(poisoned=(22,), full_scale=full_scale)
    with pytest.raises(StageError, match=r"formula gives .* no number for fg_bg/.*_000022\.png"):
        label(workspace, broken, precision=precision, forward_batch=0)
    assert not workspace.manifest("depthmap").exists()


class FileFormula(Formula, FileEstimator):
    """A formula out of a file, which computes as the file says."""

    __setattr__ = object.__setattr__  # that of files is frozen


@pytest.mark.parametrize(
    ("precision", "kind", "remedy"),
    [
        ("bf16", Formula, "--precision float32 or another --model"),
        ("float32", Formula, "another --model"),  # there is none finer
        ("fp16", FileFormula, "another --model"),  # its file's, which nobody can change
    ],
)
@pytest.mark.parametrize("poisoned", [0, 10], ids=["measured", "labelled"])
def test_what_to_try_is_what_there_is_for_the_network_that_fails(
    tmp_path: Path, precision: Any, kind: type[Formula], remedy: str, poisoned: int
) -> None:
    workspace = make_composites(tmp_path)
    broken = kind(precision, model="net", full_scale=None, poisoned=(poisoned,))
    has_precisions = kind is Formula
    network: Any = FormulaNetwork(
        {precision: broken, "float32": broken}, has_precisions=has_precisions, model="onnx"
    )
    wanted = precision if has_precisions else "auto"
    options = DepthmapOptions(device="cpu", precision=wanted, forward_batch=1)
    with pytest.raises(StageError) as caught:
        run(workspace, options, plan=plan_network(workspace, options, network, lambda _: None))
    first, last = str(caught.value).split(f"_{poisoned:06d}.png; ")
    assert first.startswith("net gives a value that is no number for fg_bg/")
    kept = "what was committed before it is kept; try {}, with --overwrite"
    assert last == (kept if poisoned else "try {}").format(remedy)


def test_a_forecast_keeps_nothing_and_says_so_of_nothing(tmp_path: Path) -> None:
    workspace = make_composites(tmp_path)
    options = DepthmapOptions(device="cpu", precision="float32", forward_batch=1)
    network: Any = FormulaNetwork({"float32": Formula(poisoned=(1,))})
    plan = plan_network(workspace, options, network, lambda _: None)
    with pytest.raises(StageError, match=r"_000001\.png; try another --model$"):
        plan.forecast()


def test_out_of_memory_halves_the_batch_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    easy, tight = make_composites(tmp_path / "easy"), make_composites(tmp_path / "tight")
    label(easy, Formula(), forward_batch=16)
    estimator = Formula(room=5)
    with caplog.at_level(logging.WARNING):
        label(tight, estimator, forward_batch=16)
    assert estimator.seen == [16, 8, 4, 4, 4, 4, 4, 3]
    assert [record.getMessage() for record in caplog.records] == [
        "cpu ran out of memory; it goes on with 8 pictures at a time",
        "cpu ran out of memory; it goes on with 4 pictures at a time",
    ]
    one, other = (each.archive("depth_fg_bg").read_bytes() for each in (easy, tight))
    assert one == other


@pytest.mark.parametrize("full_scale", [1.0, None])
@pytest.mark.parametrize("wanted", [{}, {"forward_batch": 0}, {"precision": "auto"}], ids=str)
def test_what_does_not_fit_even_alone_is_one_sentence(
    tmp_path: Path, wanted: dict[str, Any], full_scale: float | None
) -> None:
    workspace = make_composites(tmp_path)
    with pytest.raises(StageError, match="formula does not fit into the memory of cpu, not even"):
        label(workspace, Formula(room=0, full_scale=full_scale), **wanted)


def test_the_cpus_own_out_of_memory_is_known() -> None:
    class Greedy(Formula):
        def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
            if len(pictures) > 1:
                torch.empty(1 << 60, dtype=torch.uint8)
            return super().__call__(pictures)

    forward = Forward(Greedy(), 1.0, bits=8, limit=4)
    assert forward.labels(np.zeros((4, 2, 2, 3), np.uint8)).shape == (4, 2, 2)
    assert forward.limit == 1


def test_other_errors_of_a_network_are_not_taken_for_memory() -> None:
    class Broken(Formula):
        def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        Forward(Broken(), 1.0, bits=8, limit=4).labels(np.zeros((4, 2, 2, 3), np.uint8))


class OneForAll(Formula):
    """Gives the mean of a batch's depths, as a network that reduces the wrong axis does."""

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        return super().__call__(pictures).mean(dim=0, keepdim=True)


@pytest.mark.parametrize("full_scale", [1.0, None])
@pytest.mark.parametrize("forward_batch", [0, 3])
def test_fewer_maps_than_pictures_are_told_before_a_label_is_made(
    tmp_path: Path, forward_batch: int, full_scale: float | None
) -> None:
    workspace = make_composites(tmp_path)
    options: dict[str, Any] = {"forward_batch": forward_batch}
    with pytest.raises(
        EstimatorError,
        match=r"formula gives depth of 1 × 16 × 16 for pictures of \d × 16 × 16; .*-batch 1$",
    ):
        label(workspace, OneForAll(full_scale=full_scale), **options)
    assert not workspace.archive("depth_fg_bg").exists()
    # One at a time it gives what it should.
    label(workspace, OneForAll(full_scale=1.0), forward_batch=1, overwrite=True)
    one, other = labels_of(workspace), make_composites(tmp_path / "other")
    label(other, Formula())
    for name, found in labels_of(other).items():
        assert np.array_equal(one[name], found)


def test_a_stream_names_the_picture_that_failed() -> None:
    pictures = np.zeros((3, 4, 4, 3), np.uint8)
    pictures[:, 0, 0, 1] = 1, 2, 3
    stream = Forward(Formula(poisoned=(3,)), 1.0, bits=8, limit=2).stream([("key", pictures)])
    with pytest.raises(NotFiniteError) as caught:
        list(stream)
    assert (caught.value.key, caught.value.position) == ("key", 2)


@pytest.mark.parametrize(
    ("batch", "committed"),
    [(6, [6, 12, 18]), (7, [9, 18]), (1, [3, 6, 9, 12, 15, 18, 21, 23]), (1000, [])],
)
def test_so_many_samples_are_put_on_the_disk_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, committed: list[int]
) -> None:
    workspace = make_composites(tmp_path)
    found = []
    commit = ArchiveWriter.commit

    def noted(writer: ArchiveWriter) -> None:
        found.append(len(writer) - 1)  # but for the info
        commit(writer)

    monkeypatch.setattr(ArchiveWriter, "commit", noted)
    label(workspace, Formula(), batch=batch)
    assert found == [*committed, 23]  # the last one closes the archive


@pytest.mark.parametrize("batch", [1, 1000])
def test_few_samples_are_on_their_way_whatever_is_committed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    workspace = make_composites(tmp_path, samples=200)
    estimator = Formula()
    quantity = Quantity("depth_m", 10.0, 8, "formula", 16)
    labelling = Labelling(estimator, quantity, 2, batch, 2)
    read: list[Sample] = []
    added: list[Any] = []
    reported: list[int] = []
    add = ArchiveWriter.add

    def noted_read(archive: Archive, samples: Sequence[Sample]) -> NDArray[np.uint8]:
        read.extend(samples)
        return read_pictures(archive, samples)

    def noted_add(writer: ArchiveWriter, *entry: Any) -> None:
        added.append(entry)
        add(writer, *entry)

    def progress(done: int, total: int) -> None:
        reported.append(done)
        assert len(added) == (done + 1 if done else 0)  # with the info
        assert sum(estimator.seen) - done <= 2 * 5
        assert len(read) - done <= 2 * 8

    monkeypatch.setattr(pipeline, "read_pictures", noted_read)
    monkeypatch.setattr(ArchiveWriter, "add", noted_add)
    output = workspace.archive("depth_fg_bg")
    assert labelling.write([workspace.archive("fg_bg")], [output], progress) == 200
    assert reported == [*range(0, 201, 2), 200]


def test_composites_of_two_sizes_are_refused_by_name(tmp_path: Path) -> None:
    workspace = make_composites(tmp_path, samples=4)
    path = workspace.archive("fg_bg")
    path.unlink()
    with ArchiveWriter(path) as writer:
        for index, side in enumerate((16, 16, 16, 8)):
            name = sample_member("fg_bg", Member(fg=0, bg=0, index=index), ".png")
            writer.add(name, images.encode_png(np.zeros((side, side, 3), np.uint8)))
    with pytest.raises(StageError, match=r"_000003\.png has another size"):
        label(workspace, Formula())


def test_a_damaged_composite_that_still_decodes_is_not_labelled(tmp_path: Path) -> None:
    workspace = make_composites(tmp_path, samples=60)
    path = workspace.archive("fg_bg")
    name, sound = flip_a_bit(path, 55)  # of none that the network is measured on
    with pytest.raises(StageError, match=rf"fg_bg\.zip: {name} is damaged.*composite --overwrite"):
        label(workspace, Formula(), batch=6)
    assert not workspace.archive("depth_fg_bg").exists()
    path.write_bytes(sound)
    seen: list[int] = []
    label(workspace, Formula(), lambda done, total: seen.append(done), batch=6)
    assert seen[0] >= 24, "what was committed is kept"
    assert len(labels_of(workspace)) == 60


def test_a_label_archive_of_another_length_is_not_taken_for_ours(tmp_path: Path) -> None:
    workspace = make_composites(tmp_path, shards=2)
    with pytest.raises(KeyboardInterrupt):
        label(workspace, Formula(), _interrupt)
    foreign = sorted(workspace.root.glob("fg_bg-*"))[1]
    path = foreign.with_name(f"depth_{foreign.name}")
    with ArchiveWriter(path) as writer:
        writer.add("x", b"")
    with pytest.raises(ArchiveError, match="has 1 members where 11 belong"):
        label(workspace, Formula())


def _interrupt(done: int, total: int) -> None:
    raise KeyboardInterrupt
