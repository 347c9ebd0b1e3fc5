"""An ordered, bounded map over processes.

The one rule: the results come in the order of the items, whoever finished first.
"""

from __future__ import annotations

import pickle
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from depthgen.errors import DepthgenError
from depthgen.workers import process as processes
from depthgen.workers.errors import death, failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from depthgen.workers.process import Process
    from depthgen.workers.wire import Answer

Item = TypeVar("Item")
Result = TypeVar("Result")

_IN_FLIGHT_PER_WORKER = 3


@contextmanager
def ordered_map(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    describe: Callable[[Item], str] = str,
) -> Iterator[Iterator[Result]]:
    """Apply `work` to each item in `workers` processes; yields an iterator of results, in order.

    work: picklable, from an importable module; it is sent to each worker once. With one worker it
        runs in the caller. describe: what to call an item in an error message.
    Raises `WorkerError` (from the iterator) if an item fails or a worker dies. However the `with`
    block ends, no worker outlives it.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    if workers == 1:
        yield _run_here(work, items, describe)
        return
    with closing(_Pool(work, items, workers, describe)) as pool:
        yield pool.results()


def _run_here(
    work: Callable[[Item], Result], items: Iterable[Item], describe: Callable[[Item], str]
) -> Iterator[Result]:
    for item in items:
        try:
            result = work(item)
        except DepthgenError:
            raise
        except Exception as error:
            raise failure(describe(item), error) from error
        yield result


class _Pool:
    """The worker processes, each with a thread here that feeds it one item at a time."""

    def __init__(
        self,
        work: Callable[[Any], Any],
        items: Iterable[Any],
        workers: int,
        describe: Callable[[Any], str],
    ) -> None:
        self._items = iter(items)
        self._taken = 0
        self._describe = describe
        # What came back, by item.
        self._results: dict[int, Answer] = {}
        self._stopping = False
        self._active = workers
        self._changed = threading.Condition()
        self._slots = threading.Semaphore(workers * _IN_FLIGHT_PER_WORKER)
        payload = pickle.dumps(work)
        self._processes = processes.start(workers)
        self._threads = [
            threading.Thread(target=self._feed, args=(process, payload), daemon=True)
            for process in self._processes
        ]
        for thread in self._threads:
            thread.start()

    def results(self) -> Iterator[Any]:
        index = 0
        while True:
            with self._changed:
                while index not in self._results and self._active:
                    self._changed.wait()
                if index not in self._results:
                    return
                done, value = self._results.pop(index)
            if not done:
                raise value
            self._slots.release()
            yield value
            index += 1

    def _feed(self, process: Process, payload: bytes) -> None:
        process.send_work(payload)
        while (task := self._next()) is not None:
            index, item = task
            done, value = self._ask(process, item)
            with self._changed:
                self._results[index] = done, value
                self._stopping = self._stopping or not done
                self._changed.notify_all()
        with self._changed:
            self._active -= 1
            self._changed.notify_all()

    def _next(self) -> tuple[int, Any] | None:
        """The next item and its number, or None when there is none, or no more are wanted."""
        self._slots.acquire()
        with self._changed:
            if self._stopping:
                return None
            try:
                item = next(self._items)
            except StopIteration:
                self._stopping = True
                return None
            except BaseException as error:  # it takes the place of the item that it kept back
                self._stopping = True
                self._results[self._taken] = False, error
                return None
            self._taken += 1
            return self._taken - 1, item

    def _ask(self, process: Process, item: Any) -> Answer:
        """(True, result) or (False, error); whatever goes wrong here is the item's error too."""
        name = "an item"
        try:
            name = self._describe(item)
            done, value = process.ask(item)
        except (EOFError, OSError):
            return False, death(process.obituary(), name)
        except Exception as error:
            return False, failure(name, error)
        return done, value if done else failure(name, value)

    def close(self) -> None:
        with self._changed:
            self._stopping = True
        processes.end(self._processes)
        for _ in self._threads:
            self._slots.release()
        for thread in self._threads:
            thread.join()
        for process in self._processes:
            process.close_pipes()
