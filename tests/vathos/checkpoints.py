"""Checkpoints that nothing was trained for: networks whose weights are drawn, and run folders."""

from __future__ import annotations

import json
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


def drawn_network(name: str = "ResUNet") -> nn.Module:
    """A network whose outputs depend on its input: heads large, running means in place."""
    torch.manual_seed(0)
    network: models.ResUNet = getattr(models, name)()
    network.train()
    with torch.no_grad():
        network(torch.rand(4, 6, 32, 32))
        for head in (network.depth_head, network.mask_head):
            head.weight.mul_(20)
    return network.eval()


def save_checkpoint(path: Path, network: nn.Module | None = None, **more: Any) -> Path:
    """A model checkpoint, as training writes it."""
    network = network or drawn_network()
    state = {
        "model_name": type(network).__name__,
        "model_args": {},
        "model": network.state_dict(),
        "size": [32, 32],
        "quantity": QUANTITY,
        "epoch": 3,
        "step": 12,
        "metrics": {},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state | more, path)
    return path


def save_run(archives: Path, folder: Path, by: str = "background", **config: Any) -> Path:
    """A run folder with configuration, split and model checkpoint; returns the checkpoint."""
    dataset = DenseDepth(archives, archives)
    split = make_split(dataset, by, 0.4, 0)  # type: ignore[arg-type]
    checkpoint = save_checkpoint(folder / "model_checkpoint.pt")
    record = {"split": split.to_json(), "archives": dataset.digests()}
    (folder / "split.json").write_text(json.dumps(record))
    settings = {"name": folder.name, "dataset": {"root": str(archives)}, **config}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return checkpoint
