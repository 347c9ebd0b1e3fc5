"""What is installed, what this machine can do, and what to type for each missing piece.

The one rule: it reports what it tried just now, not what should be the case; nothing it finds, or
does not find, makes it fail.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_CORE = (
    "beautifulsoup4",
    "certifi",
    "click",
    "icrawler",
    "imagehash",
    "lxml",
    "matplotlib",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pydantic",
    "pyyaml",
    "requests",
    "simplejpeg",
    "tqdm",
    "urllib3",
)
_EXTRAS = {
    "train": ("torch", "kornia", "tensorboard", "h5py"),
    "keras": ("keras", "tensorflow"),
    "transformers": ("transformers", "huggingface_hub"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `state` is ok or missing, `advice` what to type where it is missing."""

    topic: str
    name: str
    state: str
    detail: str = ""
    advice: str = ""


@dataclass(frozen=True)
class Report:
    findings: tuple[Finding, ...]

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(finding) for finding in self.findings]

    def text(self) -> str:
        """One line a finding, grouped by topic."""
        lines, topic = [], ""
        for finding in self.findings:
            if finding.topic != topic:
                topic = finding.topic
                lines.append(topic)
            advice = f"  →  {finding.advice}" if finding.advice else ""
            lines.append(f"  {finding.state:8}{finding.name:24}{finding.detail}{advice}")
        return "\n".join(lines)


def examine() -> Report:
    """Look at everything."""
    findings = [_python(), *_machine()]
    findings += [_package("core", name, "pip install depthgen-vathos") for name in _CORE]
    for extra, names in _EXTRAS.items():
        advice = f"pip install 'depthgen-vathos[{extra}]'"
        findings += [_package(f"extra [{extra}]", name, advice) for name in names]
    return Report((*findings, _restart_markers(), *_devices()))


def _python() -> Finding:
    fine = sys.version_info >= (3, 11)
    advice = "" if fine else "install Python 3.11 or newer"
    return Finding("machine", "python", _state(fine), platform.python_version(), advice)


def _machine() -> list[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    free = shutil.disk_usage(".").free / 1e9
    return [
        Finding("machine", "cores", "ok", str(cores)),
        Finding("machine", "free disk here", "ok", f"{free:.0f} GB"),
    ]


def _package(topic: str, name: str, advice: str) -> Finding:
    try:
        return Finding(topic, name, "ok", version(name))
    except PackageNotFoundError:
        return Finding(topic, name, "missing", "", advice)


def _restart_markers() -> Finding:
    """Compositing splices JPEG cells, for which OpenCV must write restart markers."""
    name, topic = "JPEG restart markers", "codecs"
    try:
        import numpy as np

        from depthgen import images

        jpeg = images.encode_jpeg_cells(np.zeros((64, 64, 3), np.uint8), 90, blocks=2)
    except Exception as error:  # whatever is broken here is the finding
        return Finding(topic, name, "missing", str(error), "pip install opencv-python-headless")
    found = jpeg.count(b"\xff\xd0")
    advice = "" if found else "pip install -U opencv-python-headless"
    return Finding(topic, name, _state(found > 0), "written by OpenCV", advice)


def _devices() -> list[Finding]:
    try:
        import torch
    except ImportError:
        advice = "pip install 'depthgen-vathos[train]'"
        return [Finding("devices", "torch", "missing", "no training without it", advice)]
    found = [Finding("devices", "CPU", "ok", f"{torch.get_num_threads()} threads, {_cpu_bf16()}")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        detail = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {bf16}"
        found.append(Finding("devices", f"GPU {index}", "ok", detail))
    if torch.backends.mps.is_available():
        found.append(Finding("devices", "MPS", "ok", "Apple GPU"))
    if len(found) == 1:
        found.append(Finding("devices", "GPU", "missing", "training runs on the CPU"))
    return [*found, _tpu()]


def _tpu() -> Finding:
    """What a TPU is reached through; to ask whether there is one would take hold of it."""
    for package, library in (("torch_tpu", "TorchTPU"), ("torch_xla", "PyTorch/XLA")):
        with suppress(PackageNotFoundError):
            return Finding("devices", "for a TPU", "ok", f"{library} {version(package)}")
    advice = "pip install 'depthgen-vathos[tpu]', in an environment of its own"
    return Finding("devices", "for a TPU", "missing", "", advice)


def _cpu_bf16() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:  # noqa: PTH123 - a kernel file
            flags = next((line for line in stream if line.startswith("flags")), "")
    except OSError:
        return "bf16 unknown"
    fast = {"avx512_bf16", "amx_bf16"} & set(flags.split())
    return f"bf16 in hardware ({', '.join(sorted(fast))})" if fast else "no bf16 in hardware"


def _state(fine: bool) -> str:
    return "ok" if fine else "missing"
