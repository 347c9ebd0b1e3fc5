"""Networks from the hub, against a small hub on this machine, and without any."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from depthgen.depth import hub
from depthgen.depth.estimator import EstimatorError
from depthgen.depth.hub import describe_download, fetch, hub_id_of, licence_notice, weight_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("huggingface_hub")

REVISION = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "README.md": b"not needed",
    "config.json": b"{}",
    "model.safetensors": b"w" * 1_500_000,
    "preprocessor_config.json": b"{}",
    "pytorch_model.bin": b"b" * 1_500_000,
}
NOWHERE = "http://127.0.0.1:9"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download takes: a repository's description, and its files."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        if path.startswith("/api/models/ann/net/tree/"):
            self._send(json.dumps(self._tree()).encode(), body, "application/json")
        elif path.startswith("/api/models/ann/net"):
            self._send(json.dumps(self._description()).encode(), body, "application/json")
        elif path.startswith(f"/ann/net/resolve/{REVISION}/"):
            self._send(FILES[path.rpartition("/")[2]], body, "application/octet-stream")
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _description(self) -> dict[str, Any]:
        files = [{"rfilename": name, "size": len(data)} for name, data in FILES.items()]
        card = {"license": "apache-2.0"}
        return {"id": "ann/net", "sha": REVISION, "siblings": files, "cardData": card}

    def _tree(self) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": name, "size": len(data), "oid": str(len(data))}
            for name, data in FILES.items()
        ]

    def _send(self, data: bytes, body: bool, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{len(data)}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """The test's terminal stays clean."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache in place of the person's own."""
    import huggingface_hub.constants

    folder = tmp_path / "cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def endpoint() -> Iterator[str]:
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    # It looks this often whether it is to stop.
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_download_is_described_before_it_starts(cache: Path, endpoint: str) -> None:
    download = describe_download("ann/net", endpoint)
    assert download is not None
    assert download.files == ("config.json", "model.safetensors", "preprocessor_config.json")
    assert download.nbytes == 1_500_004
    assert str(download) == (f"ann/net: 1.5 MB to download into {cache}, licence: apache-2.0")
    assert not any("resolve" in path for path in Hub.asked)


def test_only_what_is_needed_is_fetched_and_only_once(cache: Path, endpoint: str) -> None:
    folder = fetch("ann/net", endpoint)
    assert folder.is_relative_to(cache)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: FILES[name]
        for name in ("config.json", "model.safetensors", "preprocessor_config.json")
    }
    Hub.asked.clear()
    assert describe_download("ann/net", endpoint) is None
    assert fetch("ann/net", NOWHERE) == folder
    assert Hub.asked == []


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("ask", [describe_download, fetch])
def test_without_a_hub_one_sentence_says_what_to_do(ask: Any) -> None:
    with pytest.raises(EstimatorError) as caught:
        ask("depth-anything-v2-small", NOWHERE)
    sentence = str(caught.value)
    assert sentence.startswith(
        "depth-anything/Depth-Anything-V2-Small-hf is not on this machine and the hub cannot be "
        "reached ("
    )
    assert "--weights DIR" in sentence
    assert "\n" not in sentence


@pytest.mark.usefixtures("cache")
def test_a_network_that_the_hub_does_not_have_is_named(endpoint: str) -> None:
    with pytest.raises(EstimatorError, match="the hub has no ann/nothing, or not for everyone"):
        fetch("ann/nothing", endpoint)


def test_a_name_that_means_nothing_lists_the_choices() -> None:
    with pytest.raises(EstimatorError, match=r"midnight is neither a folder.*zoedepth-nyu-kitti"):
        fetch("midnight")


def test_a_name_that_the_hub_cannot_have_is_refused() -> None:
    with pytest.raises(EstimatorError, match=r"a\.\./net cannot be a name on the hub"):
        fetch("a../net")


def test_a_folder_of_that_name_is_no_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub_id_of("ann/net") == "ann/net"
    (tmp_path / "ann/net").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_id_of("ann/net") is None


def test_only_networks_that_are_not_free_carry_a_notice() -> None:
    noticed = {name for name in hub.NETWORKS if licence_notice(name)}
    assert noticed == {
        "depth-anything-v2-base",
        "depth-anything-v2-large",
        "depth-anything-v2-metric-indoor-base",
        "depth-anything-v2-metric-indoor-large",
    }
    assert "not for commercial use" in str(licence_notice("depth-anything-v2-large"))


def test_divided_weights_are_all_named(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    parts = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index.write_text(json.dumps({"weight_map": {"a": parts[0], "b": parts[1], "c": parts[0]}}))
    (tmp_path / parts[0]).write_bytes(b"1")
    with pytest.raises(EstimatorError, match=f"lacks {parts[1]}, a part of its weights"):
        weight_files(tmp_path)
    (tmp_path / parts[1]).write_bytes(b"2")
    assert weight_files(tmp_path) == [tmp_path / part for part in parts]


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"weight_map": {"a": "../../secret"}}', '{"weight_map": {"a": 1}}']
)
def test_an_index_that_leads_elsewhere_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(EstimatorError, match="copy it again"):
        weight_files(tmp_path)
