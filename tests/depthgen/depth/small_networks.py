"""Networks of `transformers`, a few layers wide, in folders as the hub has them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pathlib import Path

HALF = [0.5, 0.5, 0.5]
VIT: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
PATCHES: dict[str, Any] = {"patch_size": 16, "intermediate_size": 32, **VIT}
NECK: dict[str, Any] = {"neck_hidden_sizes": [4, 8, 8, 8], "fusion_hidden_size": 8}
# The settings that the published networks of each family come with.
SETTINGS: dict[str, dict[str, Any]] = {
    "depth_anything": {
        "do_normalize": True,
        "do_pad": False,
        "do_rescale": True,
        "do_resize": True,
        "ensure_multiple_of": 14,
        "image_mean": [0.485, 0.456, 0.406],
        "image_processor_type": "DPTImageProcessor",
        "image_std": [0.229, 0.224, 0.225],
        "keep_aspect_ratio": True,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": 518, "width": 518},
        "size_divisor": None,
    },
    "dpt": {
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "DPTFeatureExtractor",
        "image_mean": HALF,
        "image_std": HALF,
        "resample": 2,
        "size": 384,
    },
    "glpn": {
        "do_rescale": True,
        "do_resize": True,
        "feature_extractor_type": "GLPNFeatureExtractor",
        "resample": 2,
        "size_divisor": 32,
    },
    "zoedepth": {
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "ensure_multiple_of": 32,
        "image_mean": HALF,
        "image_processor_type": "ZoeDepthImageProcessor",
        "image_std": HALF,
        "keep_aspect_ratio": True,
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": 384, "width": 512},
    },
}
SETTINGS["zoedepth_two_heads"] = SETTINGS["zoedepth"]


def depth_anything(**settings: Any) -> torch.nn.Module:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    stages: dict[str, Any] = {"out_indices": [1, 2, 3, 4], "reshape_hidden_states": False}
    backbone = Dinov2Config(image_size=56, patch_size=14, mlp_ratio=2, **VIT, **stages)
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, head_hidden_size=4, **NECK, **settings
    )
    return DepthAnythingForDepthEstimation(config)


def dpt() -> torch.nn.Module:
    from transformers import DPTConfig, DPTForDepthEstimation

    config = DPTConfig(image_size=384, backbone_out_indices=[0, 1, 2, 3], **PATCHES, **NECK)
    return DPTForDepthEstimation(config)


def glpn() -> torch.nn.Module:
    from transformers import GLPNConfig, GLPNForDepthEstimation

    config = GLPNConfig(
        hidden_sizes=[4, 8, 8, 16],
        depths=[1] * 4,
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=8,
    )
    return GLPNForDepthEstimation(config)


def zoedepth(**settings: Any) -> torch.nn.Module:
    from transformers import BeitConfig, ZoeDepthConfig, ZoeDepthForDepthEstimation

    stages: dict[str, Any] = {
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
        "reshape_hidden_states": False,
    }
    backbone = BeitConfig(image_size=64, use_relative_position_bias=True, **PATCHES, **stages)
    config = ZoeDepthConfig(
        backbone_config=backbone,
        num_relative_features=4,
        bottleneck_features=8,
        bin_embedding_dim=8,
        num_attractors=[4, 2, 2, 1],
        **NECK,
        **settings,
    )
    return ZoeDepthForDepthEstimation(config)


def zoedepth_two_heads() -> torch.nn.Module:
    heads = [
        {"name": "nyu", "n_bins": 8, "min_depth": 0.001, "max_depth": 10.0},
        {"name": "kitti", "n_bins": 8, "min_depth": 0.001, "max_depth": 80.0},
    ]
    return zoedepth(
        bin_configurations=heads,
        num_patch_transformer_layers=4,
        patch_transformer_hidden_size=128,
        patch_transformer_intermediate_size=16,
        patch_transformer_num_attention_heads=2,
    )


BUILDERS = {
    "depth_anything": depth_anything,
    "dpt": dpt,
    "glpn": glpn,
    "zoedepth": zoedepth,
    "zoedepth_two_heads": zoedepth_two_heads,
}


def save(network: Any, family: str, folder: Path) -> Path:
    """A network's folder as the hub has it, with weights that make its depth vary."""
    from transformers.utils import logging

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim > 1 and "token" not in name:
                noise *= (2 / weight[0].numel()) ** 0.5
            elif "norm" in name and name.endswith("weight"):
                noise = 1 + 0.1 * noise
            if weight.ndim == 1 or (name.startswith("head.") and family != "glpn"):
                noise = noise.abs() * 0.5  # the last ReLU lets it through
            weight.copy_(noise)
    logging.disable_progress_bar()
    network.save_pretrained(folder)
    logging.enable_progress_bar()
    write_settings(folder, SETTINGS[family])
    return folder


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
