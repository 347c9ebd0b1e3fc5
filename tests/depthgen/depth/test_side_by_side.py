"""Pictures side by side: the same labels, in order, and threads as they were."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import torch

from depthgen.depth.side_by_side import side_by_side

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


@pytest.fixture(autouse=True)
def _four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def of_a_new_thread() -> int:
    """How many threads torch would use in it."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize(("count", "streams", "each"), [(1, 1, 4), (2, 2, 2), (3, 3, 1), (9, 4, 1)])
def test_the_threads_are_shared_out_among_the_pictures(count: int, streams: int, each: int) -> None:
    seen: list[tuple[str, int, int]] = []
    meet = threading.Barrier(streams, timeout=30)

    def work(pictures: Tensor) -> Tensor:
        if threading.current_thread().name not in {name for name, _, _ in seen}:
            meet.wait()  # else one thread might do the work of two
        seen.append((threading.current_thread().name, torch.get_num_threads(), len(pictures)))
        return pictures.flatten(1).sum(1) + 1

    pictures = torch.arange(count * 6, dtype=torch.float32).view(count, 2, 3)
    assert torch.equal(side_by_side(work, pictures), pictures.sum((1, 2)) + 1)
    assert len({name for name, _, _ in seen}) == streams
    assert {threads for _, threads, _ in seen} == {each}
    assert {pictures for _, _, pictures in seen} == {1}
    assert torch.get_num_threads() == of_a_new_thread() == 4


def test_no_gradients_are_kept() -> None:
    weight = torch.ones(1, requires_grad=True)
    for count in (1, 3):
        assert not side_by_side(lambda x: x * weight, torch.ones(count, 1)).requires_grad


def test_what_fails_for_one_picture_is_raised_and_leaves_the_threads() -> None:
    def work(pictures: Tensor) -> Tensor:
        if pictures.max() > 3:
            raise RuntimeError("not enough memory: DefaultCPUAllocator")
        return pictures

    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        side_by_side(work, torch.arange(6.0))
    assert torch.get_num_threads() == of_a_new_thread() == 4
