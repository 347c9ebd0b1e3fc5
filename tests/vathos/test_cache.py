"""Samples decoded once: the same bits wherever they are kept, and whatever happens to the file."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.utils.data import Subset

from tests.vathos.trainings import TinyNet, build_trainer, stop_at
from vathos.data_loader import DenseDepth
from vathos.data_loader.batches import Batches
from vathos.data_loader.cache import Cache, layouts_of
from vathos.data_loader.disk_cache import DiskCache
from vathos.data_loader.members import Members
from vathos.errors import ConfigError, DataError
from vathos.trainer import GPUTrainer, keeping
from vathos.trainer.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KINDS = ("device", "ram", "disk")
CPU = torch.device("cpu")


@pytest.fixture
def dataset(tiny_set: Callable[..., Any]) -> DenseDepth:
    made = tiny_set(depth_bits=16).write()
    return DenseDepth(made.folder, made.folder)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(archive, position) of each member decoded in this process."""
    seen: list[tuple[str, int]] = []
    read = Members.read

    def note(self: Members, position: int) -> Any:
        seen.append((self.path.stem, position))
        return read(self, position)

    monkeypatch.setattr(Members, "read", note)
    return seen


def settings(dataset: DenseDepth, cache: str, workers: int = 0) -> dict[str, Any]:
    args = {"batch_size": 4, "num_workers": workers}
    folder = str(dataset.paths["bg"].parent)
    return {"dataset": {"zip_dir": folder, "cache": cache, "loader_args": args}}


def weights(trainer: GPUTrainer) -> dict[str, torch.Tensor]:
    trainer.start_train()
    return trainer.model.state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("workers", [0, 2])
def test_weights_are_the_same_bits_whatever_the_cache_also_after_a_stop_in_an_epoch(
    dataset: DenseDepth, tmp_path: Path, workers: int
) -> None:
    # 14 samples in batches of 4: two are left out of each epoch, others each time.
    build = partial(build_trainer, tmp_path, dataset, samples=14, epochs=2)
    wanted = weights(build(config=settings(dataset, "none")))
    for cache in KINDS:
        config = settings(dataset, cache, workers)
        assert same(weights(build(f"{cache} whole", config=config)), wanted)
        stopped = build(cache, None, stop_at("train", 4), config=config)
        with pytest.raises(KeyboardInterrupt):
            stopped.start_train()
        state = load_checkpoint(tmp_path / cache / "train_checkpoint.pt")
        assert state["batch"] == 1
        assert same(weights(build(cache, state, config=config)), wanted)


@pytest.mark.parametrize("cache", KINDS)
def test_each_sample_and_each_background_is_decoded_once(
    dataset: DenseDepth, tmp_path: Path, decoded: list[tuple[str, int]], cache: str
) -> None:
    trainer = build_trainer(tmp_path, dataset, config=settings(dataset, cache), epochs=4)
    decoded.clear()  # one is looked at to know how large they are
    for epoch in range(4):
        list(trainer.train_batches.epoch(epoch))
    composites = [position for stem, position in decoded if stem == "fg_bg"]
    backgrounds = [position for stem, position in decoded if stem == "bg"]
    assert len(composites) == len(set(composites)) == 12
    assert len(backgrounds) == len(set(backgrounds)) <= 4


def test_what_is_not_visited_is_not_decoded(
    dataset: DenseDepth, tmp_path: Path, decoded: list[tuple[str, int]]
) -> None:
    trainer = build_trainer(tmp_path, dataset, config=settings(dataset, "ram"))
    decoded.clear()
    list(trainer.train_batches.epoch(0, range(2)))
    list(trainer.train_batches.epoch(0, range(2)))
    assert len([stem for stem, _ in decoded if stem == "fg_bg"]) == 8


def test_a_cached_batch_has_the_values_types_and_memory_order_of_a_loaded_one(
    dataset: DenseDepth,
) -> None:
    rows = np.array([3, 9, 4, 12])
    every = np.random.default_rng(0).permutation(16)
    cache = Cache(np.arange(16), layouts_of(dataset, np.arange(16), dataset.load_batch([0])), CPU)
    cache.put(every, dataset.load_batch(every))
    loaded = dataset.load_batch(rows)
    taken = cache.take(cache.places([rows])[0])
    assert list(taken) == list(loaded)
    for key, value in loaded.items():
        assert torch.equal(taken[key], value)
        assert (taken[key].dtype, taken[key].stride()) == (value.dtype, value.stride())


@pytest.mark.parametrize(
    ("numbers", "order"),
    [((0, 1), {}), ((1,), {"shuffle": False}), ((0, 1), {"shuffle": False, "drop_last": True})],
    ids=["all", "the share of one process", "all but the rest"],
)
def test_processes_of_loading_end_when_all_is_in_the_cache(
    dataset: DenseDepth, numbers: tuple[int, ...], order: dict[str, Any]
) -> None:
    batches = Batches(Subset(dataset, range(10)), 4, workers=1, **order)
    rows = batches.order.rows
    batches.keep_in(Cache(rows, layouts_of(dataset, rows, dataset.load_batch([0])), CPU))

    def epoch() -> list[torch.Tensor]:
        # As training takes them: so many, and never the end of the epoch.
        loaded = batches.epoch(0, numbers)
        return [next(loaded)["fg_bg"] for _ in numbers]

    before = epoch()
    assert len(multiprocessing.active_children()) == 1
    after = epoch()
    assert multiprocessing.active_children() == []
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_samples_of_two_types_are_refused(dataset: DenseDepth) -> None:
    sample = dataset.load_batch([0])
    cache = Cache(np.arange(16), layouts_of(dataset, np.arange(16), sample), CPU)
    other = {**sample, "depth_fg_bg": sample["depth_fg_bg"].float()}
    with pytest.raises(DataError, match=r"^the samples have depth_fg_bg of different types"):
        cache.put(np.array([0]), other)


def disk_cache(dataset: DenseDepth) -> DiskCache:
    rows = np.arange(len(dataset))
    layouts = layouts_of(dataset, rows, dataset.load_batch([0]))
    return DiskCache(dataset.paths["bg"].parent / "cache", dataset.digests(), rows, layouts)


def read_all(dataset: DenseDepth) -> list[torch.Tensor]:
    """All samples as batches through a new disk cache, in order."""
    batches = Batches(Subset(dataset, range(16)), 4, shuffle=False)
    batches.keep_in(disk_cache(dataset))
    return [value for batch in batches.epoch(0) for value in batch.values()]


def test_the_next_run_takes_its_samples_from_the_file(
    dataset: DenseDepth, decoded: list[tuple[str, int]]
) -> None:
    first = read_all(dataset)
    decoded.clear()
    again = read_all(dataset)
    assert len([stem for stem, _ in decoded if stem == "fg_bg"]) == 1  # the one that is looked at
    stored = Batches(Subset(dataset, range(16)), 4, shuffle=False).epoch(0)
    assert all(
        torch.equal(a, b)
        for a, b in zip(again, (v for batch in stored for v in batch.values()), strict=True)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_flipped_bytes_a_foreign_file_and_a_cut_one_change_no_sample(
    dataset: DenseDepth, decoded: list[tuple[str, int]]
) -> None:
    first = read_all(dataset)
    path = disk_cache(dataset).path
    whole = path.read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, len(whole), np.uint8)
    flipped = np.frombuffer(whole, np.uint8).copy()
    flipped[4096::97] ^= 1
    for spoilt in (flipped.tobytes(), noise.tobytes(), whole[: len(whole) // 2], b""):
        path.write_bytes(spoilt)
        assert all(torch.equal(a, b) for a, b in zip(first, read_all(dataset), strict=True))
        decoded.clear()  # all was put right in the file
        assert all(torch.equal(a, b) for a, b in zip(first, read_all(dataset), strict=True))
        assert len([stem for stem, _ in decoded if stem == "fg_bg"]) == 1


def test_two_that_find_a_foreign_file_at_once_share_the_one_that_replaces_it(
    dataset: DenseDepth, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = disk_cache(dataset).path
    path.write_bytes(b"half copied" * 500)
    others, open_file = [], os.open

    def open_slowly(*arguments: Any) -> int:
        file = open_file(*arguments)
        monkeypatch.undo()
        others.append(disk_cache(dataset))  # while the first has opened it and not yet looked
        return file

    monkeypatch.setattr(os, "open", open_slowly)
    cache = disk_cache(dataset)
    assert os.path.sameopenfile(cache._file, others[0]._file)
    assert os.path.samestat(os.fstat(cache._file), path.stat())


def test_what_is_read_is_what_was_written_though_the_path_is_another_files(
    dataset: DenseDepth, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = DiskCache._open

    def replace_then(self: DiskCache) -> int:
        file = begin(self)
        self.path.unlink()
        self.path.write_bytes(bytes(self._bytes))
        return file

    monkeypatch.setattr(DiskCache, "_open", replace_then)
    cache, rows = disk_cache(dataset), np.arange(4)
    stored = dataset.load_batch(range(4))
    cache.put(rows, stored)
    assert not len(cache.damaged(rows))
    taken = cache.take(torch.arange(4))
    assert all(torch.equal(taken[key], stored[key]) for key in stored)


def test_a_slot_whose_checksum_was_not_yet_written_does_not_count(
    dataset: DenseDepth, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    cache, write, left = disk_cache(dataset), os.pwrite, [3]

    def die_at_the_fourth(*arguments: Any) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return write(*arguments)

    monkeypatch.setattr(os, "pwrite", die_at_the_fourth)
    with pytest.raises(Killed):
        cache.put(np.arange(4), dataset.load_batch(range(4)))
    monkeypatch.undo()
    # The first background was whole, of the next one or of the first composite only the bytes.
    assert sum(known.astype(bool).sum() for known in disk_cache(dataset)._known.values()) == 1
    stored = dataset.load_batch(range(4))
    assert all(
        torch.equal(a, b) for a, b in zip(read_all(dataset)[:4], stored.values(), strict=True)
    )


def test_other_archives_have_another_file(
    dataset: DenseDepth, tiny_set: Callable[..., Any]
) -> None:
    first = disk_cache(dataset).path
    made = tiny_set(n_fg=3, depth_bits=16).write()
    assert disk_cache(DenseDepth(made.folder, made.folder)).path != first


def test_a_full_disk_is_one_sentence(dataset: DenseDepth, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = disk_cache(dataset)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DataError, match=r"^cannot write .*\.samples: No space left[^\n]*$"):
        cache.put(np.arange(2), dataset.load_batch([0, 1]))


@pytest.mark.parametrize(
    ("free", "training", "said"),
    [
        (10**9, {}, "dataset.cache: ram, at most"),
        (10**9, {"epochs": 1}, "none, for each sample is trained on once"),
        (10**9, {"steps": 3}, "none, for each sample is trained on once"),
        (100, {}, "MB have no room; disk is there to be named"),
    ],
)
def test_auto_takes_memory_that_has_room_if_samples_are_visited_again(
    dataset: DenseDepth,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    free: int,
    training: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.setattr(keeping, "available_share", lambda: free)
    with caplog.at_level(logging.INFO, "vathos"):
        build_trainer(tmp_path, dataset, config=settings(dataset, "auto"), **training)
    (line,) = [record.getMessage() for record in caplog.records]
    assert said in line


@pytest.mark.parametrize(("spare", "place"), [(10**6, "device"), (1000, "ram")])
def test_auto_takes_half_of_what_a_step_leaves_free_on_the_device(
    dataset: DenseDepth,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    spare: int,
    place: str,
) -> None:
    monkeypatch.setattr(GPUTrainer, "spare", lambda trainer: spare)
    with caplog.at_level(logging.INFO, "vathos"):
        build_trainer(tmp_path, dataset, config=settings(dataset, "auto"))
    assert f"dataset.cache: {place}, at most" in caplog.text


def test_what_is_free_on_a_gpu_is_asked_for_after_a_step(
    dataset: DenseDepth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build_trainer(tmp_path, dataset)
    assert trainer.spare() == 0  # a CPU has no memory of its own
    trainer.device = torch.device("cuda")
    asked: list[str] = []
    monkeypatch.setattr(trainer, "_pass", lambda network: lambda: asked.append("pass"))
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (len(asked), 100))
    assert trainer.spare() == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_what_a_step_takes_of_a_gpu_is_not_spare(dataset: DenseDepth, tmp_path: Path) -> None:
    class Hungry(TinyNet):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            torch.empty(2**28, dtype=torch.uint8, device=x.device)
            return super().forward(x)

    trainer = build_trainer(
        tmp_path, dataset, model=Hungry(), config={**settings(dataset, "none"), "device": "GPU"}
    )
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(trainer.device)[0]
    assert trainer.spare() <= free - 2**28


def test_a_memory_without_room_is_one_sentence_or_the_next_best_thing(
    dataset: DenseDepth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "available_share", lambda: 100)
    with pytest.raises(ConfigError, match=r"^dataset\.cache: ram would take [^\n]*$"):
        build_trainer(tmp_path, dataset, config=settings(dataset, "ram"))

    def no_room(self: Cache) -> dict[str, torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(keeping, "available_share", lambda: 10**9)
    monkeypatch.setattr(Cache, "_allocate", no_room)
    with pytest.raises(ConfigError, match=r"^dataset\.cache: device has no room [^\n]*$"):
        build_trainer(tmp_path, dataset, config=settings(dataset, "device"))
    trainer = build_trainer(tmp_path, dataset, config=settings(dataset, "auto"))
    assert trainer.train_batches._cache is None
