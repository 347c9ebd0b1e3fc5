"""Crawling a list of URLs, against img2dataset on the same list.

    python -m benchmarks.crawl [--pictures 2000] [--threads 16] [--rounds 5] [--folder DIR]...

Small pictures, all different, come from a server in a process of its own on 127.0.0.1. Its clock
starts with the first request that arrives, so start-up is left out on both sides, and it stops when
the last picture is on the disk, by the files' own times. The sides take turns, and the middle round
counts. img2dataset works as its README says for pictures that are to stay as they are: one process,
no resizing, nothing encoded again, in the better of its two common formats; it is installed into
`benchmarks/scratch/` once. It neither decodes nor syncs what it saves; `crawl` does both, looks for
near-duplicates, and is asked to be at least as fast all the same.

--folder is where both write, by default on the disk and in memory, one after the other. On ext4
without a journal a new file searches past the inodes that were freed in the last minutes, so a disk
that a test or an earlier run has just tidied up slows either side down, by chance.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from benchmarks.machine import machine
from depthgen import images

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

SCRATCH = Path(__file__).parent / "scratch"
FOLDERS = [SCRATCH, Path("/dev/shm")]
VERSION = "1.47.0"  # img2dataset's; wants a Python below 3.13, which dropped `imghdr`
FORMATS = ("files", "webdataset")
SIDE, GRID, QUALITY = 128, 16, 90
TIMES = "/_times"
# Neither asks the network for more than the pictures.
QUIET = {"WANDB_MODE": "disabled", "NO_ALBUMENTATIONS_UPDATE": "1"}


def picture(index: int) -> bytes:
    """A JPEG of about 5 KB of smooth noise: no two come near each other by perceptual hash."""
    coarse = np.random.default_rng(index).integers(0, 256, (GRID, GRID, 3), np.uint8)
    return images.encode_jpeg(images.resize(coarse, SIDE, SIDE, "bicubic"), QUALITY)


class Clock:
    """What the server saw since it was last asked: first arrival, last end, and how many."""

    def __init__(self) -> None:
        self.first = self.last = 0.0
        self.count = 0

    def arrive(self) -> None:
        if not self.count:
            self.first = time.time()
        self.count += 1

    def read(self) -> bytes:
        """The times and the pictures so far, as JSON; and from here on anew."""
        seen = vars(self).copy()
        self.first, self.last, self.count = 0.0, 0.0, 0
        return json.dumps(seen).encode()


class Conversation(asyncio.Protocol):
    """One connection: GET after GET until the other side closes, or asks for it."""

    def __init__(self, pictures: dict[bytes, bytes], clock: Clock) -> None:
        self._pictures, self._clock = pictures, clock
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "a stream server makes no other"
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, self._received = self._received.split(b"\r\n\r\n", 1)
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        path = head.split(b" ", 2)[1]
        closes = b"connection: close" in head.lower()
        body = self._pictures.get(path)
        if body is not None:
            self._clock.arrive()
        elif path == TIMES.encode():
            body = self._clock.read()
        status = b"404 Not Found" if body is None else b"200 OK"
        after = b"close" if closes else b"keep-alive"
        head = b"HTTP/1.1 %b\r\nContent-Type: image/jpeg\r\nConnection: %b\r\n" % (status, after)
        self._transport.write(
            b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body or b""), body or b"")
        )
        if path in self._pictures:
            self._clock.last = time.time()
        if closes:
            self._transport.close()


def serve(pictures: dict[bytes, bytes], pipe: Connection) -> None:
    """Serve until killed; the port goes through `pipe`."""

    async def run() -> None:
        clock = Clock()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Conversation(pictures, clock), "127.0.0.1", 0, backlog=1024
        )
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


@contextmanager
def server(pictures: dict[bytes, bytes]) -> Iterator[int]:
    """The port of a server of its own process."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=serve, args=(pictures, theirs), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def read_clock(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{TIMES}") as response:
        seen: dict[str, float] = json.load(response)
    return seen


def fetch(port: int, paths: list[bytes], size: int, keep: bool) -> None:
    """GET as cheaply as Python can, one after the other, on one connection or on one for each."""
    ending = b"" if keep else b"Connection: close\r\n"
    connection = None
    for path in paths:
        connection = connection or socket.create_connection(("127.0.0.1", port))
        connection.sendall(b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (path, ending))
        head, _, body = connection.recv(size).partition(b"\r\n\r\n")
        missing = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]) - len(body)
        while missing > 0:
            missing -= len(connection.recv(size))
        if not keep:
            connection.close()
            connection = None
    if connection:
        connection.close()


def ceiling(port: int, paths: list[bytes], keep: bool) -> float:
    """Pictures per second that the server gives at least: the client costs as much as it does."""
    read_clock(port)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda part: fetch(port, part, 1 << 16, keep), (paths[::2], paths[1::2])))
    seen = read_clock(port)
    return seen["count"] / (seen["last"] - seen["first"])


def tool() -> Path:
    """img2dataset's command, in an environment of its own under `benchmarks/scratch/`."""
    folder = SCRATCH / f"img2dataset-{VERSION}"
    command = folder / "bin" / "img2dataset"
    if not command.exists():
        print(f"installing img2dataset {VERSION} …", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = str(folder / "bin" / "pip")
        install = [pip, "install", "--quiet", f"img2dataset=={VERSION}"]
        subprocess.run(install, check=True, capture_output=True)
    return command


@dataclass(frozen=True)
class Job:
    """The list to fetch, and how."""

    urls: Path
    pictures: int
    port: int
    threads: int


def their_command(job: Job, folder: Path, output_format: str) -> list[str]:
    return [
        *(str(tool()), "--url_list", str(job.urls), "--output_folder", str(folder)),
        *("--resize_mode", "no", "--disable_all_reencoding", "True"),
        *("--processes_count", "1", "--thread_count", str(job.threads)),
        *("--output_format", output_format),
    ]


def our_command(job: Job, folder: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "cli", "-w", str(folder), "crawl", "--source", "urls"),
        *("--kind", "bg", "--from", str(job.urls), "--threads", str(job.threads)),
        *("--allow-private", "--per-host-delay", "0"),
    ]


def kept(folder: Path) -> int:
    """How many pictures a run left: files, or members of its archives."""
    found = len(list(folder.rglob("*.jpg")))
    for stats in folder.glob("*_stats.json"):
        found = max(found, json.loads(stats.read_text())["successes"])
    return found


def last_saved(folder: Path) -> float:
    """When the last picture, or line about one, was written; some may come after all downloads."""
    saved = [each for each in folder.rglob("*") if each.suffix in (".jpg", ".tar", ".jsonl")]
    return max((each.stat().st_mtime for each in saved), default=0.0)


def rate(job: Job, folder: Path, command: list[str]) -> tuple[float, float]:
    """(pictures per second, seconds of the whole command)."""
    read_clock(job.port)
    started = time.perf_counter()
    done = subprocess.run(command, env=os.environ | QUIET, capture_output=True, text=True)
    whole = time.perf_counter() - started
    seen = read_clock(job.port)
    if done.returncode or kept(folder) != job.pictures or seen["count"] != job.pictures:
        sys.exit(
            f"{command[0]} kept {kept(folder)} of {job.pictures} pictures in "
            f"{seen['count']} requests and ended with {done.returncode}:\n{done.stderr[-2000:]}"
        )
    return seen["count"] / (max(seen["last"], last_saved(folder)) - seen["first"]), whole


def compare(job: Job, scratch: Path, rounds: int) -> None:
    rates: dict[str, list[float]] = {}
    for number in range(rounds):
        for side in ("crawl", *FORMATS):
            folder = scratch / f"{side}_{number}"
            ours = side == "crawl"
            command = our_command(job, folder) if ours else their_command(job, folder, side)
            speed, whole = rate(job, folder, command)
            rates.setdefault(side, []).append(speed)
            name = "crawl" if ours else f"img2dataset, {side}"
            print(f"{name:<24}{speed:>7.0f} pictures/s   {whole:>5.1f} s in all", flush=True)
    middle = {side: statistics.median(each) for side, each in rates.items()}
    best = max(FORMATS, key=lambda side: middle[side])
    print(f"\ncrawl, median:       {middle['crawl']:>6.0f} pictures/s")
    print(f"img2dataset, median: {middle[best]:>6.0f} pictures/s ({best}, its better format)")
    print(f"ratio: {middle['crawl'] / middle[best]:.2f} × (at least 1)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, action="append")
    options = parser.parse_args()
    print(machine("requests", "urllib3", "pillow", "simplejpeg"))
    cv2.setNumThreads(1)
    pictures = {b"/%d.jpg" % index: picture(index) for index in range(options.pictures)}
    size = statistics.mean(map(len, pictures.values()))
    print(f"{len(pictures):,} pictures of {size / 1000:.1f} KB, {options.threads} threads a side\n")
    tool()
    with server(pictures) as port:
        for keep, how in ((False, "a connection each"), (True, "connections kept")):
            print(f"the server gives at least {ceiling(port, list(pictures), keep):,.0f}/s, {how}")
        for place in options.folder or [each for each in FOLDERS if each.is_dir()]:
            print(f"\nin {'memory' if place == FOLDERS[1] else place.name}")
            with tempfile.TemporaryDirectory(dir=place) as name:
                folder = Path(name)
                urls = folder / "urls.txt"
                url = f"http://127.0.0.1:{port}"
                urls.write_text("".join(f"{url}{path.decode()}\n" for path in pictures))
                job = Job(urls, len(pictures), port, options.threads)
                compare(job, folder, options.rounds)


if __name__ == "__main__":
    main()
