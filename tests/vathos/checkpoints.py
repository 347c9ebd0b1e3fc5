"""Checkpoints that nothing was trained for: networks whose weights are drawn, and run folders."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import yaml

from vathos import model as models
from vathos.data_loader import DenseDepth
from vathos.data_loader.split import make_split

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

QUANTITY = {"quantity": "depth_m", "scale_m": 10.0, "bits": 8, "model": "layered", "size": 16}


@cache
def drawn_network(name: str = "TinyNet") -> nn.Module:
    """A network whose outputs depend on its input: heads large, running means in place.

    The same object each time, so it must be left as it is.
    """
    torch.manual_seed(0)
    network: nn.Module = getattr(models, name)()
    network.train()
    with torch.no_grad():
        network(torch.rand(4, 6, 32, 32))
        for key, weights in network.named_parameters():
            if "head" in key and weights.dim() == 4:
                weights.mul_(20)
    return network.eval()


def save_checkpoint(path: Path, name: str = "TinyNet", **more: Any) -> Path:
    """A model checkpoint, as training writes it. `more` has its fields in place of these."""
    state = {
        "model_name": name,
        "model_args": {},
        "model": drawn_network(name).state_dict(),
        "size": [32, 32],
        "quantity": QUANTITY,
        "epoch": 3,
        "step": 12,
        "metrics": {},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state | more, path)
    return path


def save_run(
    archives: Path, folder: Path, by: str = "background", network: str = "TinyNet"
) -> Path:
    """A run folder with configuration, split and model checkpoint; returns the checkpoint."""
    dataset = DenseDepth(archives, archives)
    split = make_split(dataset, by, 0.4, 0)  # type: ignore[arg-type]
    checkpoint = save_checkpoint(folder / "model_checkpoint.pt", network)
    record = {"split": split.to_json(), "archives": dataset.digests()}
    (folder / "split.json").write_text(json.dumps(record))
    settings = {"name": folder.name, "model": network, "dataset": {"root": str(archives)}}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return checkpoint
