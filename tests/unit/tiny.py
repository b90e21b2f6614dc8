"""Tiny checkpoints of the real classes: published file layouts, key names and schedules, a few thousand random weights.

No hub can be reached where the tests run, so the loading code is tested on these. Every writer takes a folder, fills
it and returns it; the weights depend on `SEED` only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import diffusers
import timm
import torch
import transformers
from timm.models import save_for_hf
from torch import nn

SEED = 0
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "prediction_type": "epsilon",
}
CLIP = ("clip", "clip-full")
TRANSFORMERS = (*CLIP, "dinov2", "dinov2-registers", "vit", "vit-classifier", "siglip", "swin", "convnextv2")
CLIENTS = (*TRANSFORMERS, "timm-vit")
TIMM_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}


def write_sd15(folder: Path) -> Path:
    """The layout of Stable Diffusion v1.5: conditional UNet, stride-8 VAE, text encoder, tokenizer, PNDM schedule."""
    with seeded():
        text = transformers.CLIPTextConfig(
            vocab_size=_write_tokenizer(folder / "tokenizer"),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            projection_dim=16,
            bos_token_id=188,
            eos_token_id=189,
            pad_token_id=189,
        )
        unet = diffusers.UNet2DConditionModel(
            sample_size=8,
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
            layers_per_block=1,
            block_out_channels=(8, 16, 16, 16),
        )
        _save(folder / "text_encoder", transformers.CLIPTextModel(text))
        _save(folder / "vae", _vae(latent_channels=4, scaling_factor=0.18215))
        _save(folder / "unet", unet)
    scheduler = diffusers.PNDMScheduler(**SCHEDULE, steps_offset=1, skip_prk_steps=True)
    scheduler.save_pretrained(folder / "scheduler")
    _edit_json(folder / "scheduler" / "scheduler_config.json", clip_sample=False)  # in SD's file; PNDM itself drops it
    parts = {
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    return _write_index(folder, "StableDiffusionPipeline", parts)


def write_prior(folder: Path) -> Path:
    """An unconditional latent prior: 64-px images, `(16, 8, 8)` latents, DDIM schedule; what `LatentPrior` loads."""
    with seeded():
        unet = diffusers.UNet2DModel(
            sample_size=8,
            in_channels=16,
            out_channels=16,
            block_out_channels=(16, 32),
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
        _save(folder / "vae", _vae(latent_channels=16, scaling_factor=0.5, mid_block_add_attention=False))
        _save(folder / "unet", unet)
    diffusers.DDIMScheduler(**SCHEDULE, steps_offset=0, clip_sample=False).save_pretrained(folder / "scheduler")
    parts = {
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    return _write_index(folder, "LatentPrior", parts)


def write_client(kind: str, folder: Path) -> Path:
    """A vision model (`kind` is one of `CLIENTS`) with its image processor, or timm's `config.json`."""
    with seeded():
        model = make_client(kind)
    if kind == "timm-vit":
        model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 32, 32), "mean": (0.4, 0.5, 0.6)}
        save_for_hf(model, folder, model_args=TIMM_VIT, safe_serialization=True)
        return folder
    _save(folder, model)
    _processor(kind).save_pretrained(folder)
    return folder


def make_client(kind: str) -> nn.Module:
    """The model of `write_client`, with random weights."""
    t = transformers
    common = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    vit = {**common, "intermediate_size": 32, "image_size": 32, "patch_size": 8}
    dino = {**common, "mlp_ratio": 2, "image_size": 70, "patch_size": 14}
    if kind == "clip":
        return t.CLIPVisionModelWithProjection(t.CLIPVisionConfig(**vit, projection_dim=8))
    if kind == "clip-full":  # both towers, as the published CLIP repositories
        ids = {"bos_token_id": 97, "eos_token_id": 98, "pad_token_id": 98}
        text = {**common, **ids, "intermediate_size": 32, "vocab_size": 99, "projection_dim": 8}
        towers = {"text_config": text, "vision_config": {**vit, "projection_dim": 8}}
        return t.CLIPModel(t.CLIPConfig(**towers, projection_dim=8))
    if kind == "dinov2":
        return t.Dinov2Model(t.Dinov2Config(**dino))
    if kind == "dinov2-registers":
        return t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**dino, num_register_tokens=4))
    if kind == "vit":
        return t.ViTModel(t.ViTConfig(**vit))
    if kind == "vit-classifier":
        return t.ViTForImageClassification(t.ViTConfig(**vit, num_labels=5))
    if kind == "siglip":
        return t.SiglipVisionModel(t.SiglipVisionConfig(**vit))
    if kind == "swin":
        shape = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "window_size": 4}
        return t.SwinModel(t.SwinConfig(**shape, depths=[2, 2], num_heads=[2, 4]))
    if kind == "convnextv2":
        return t.ConvNextV2Model(t.ConvNextV2Config(image_size=32, num_stages=2, hidden_sizes=[8, 16], depths=[2, 1]))
    if kind == "timm-vit":
        return timm.create_model("vit_tiny_patch16_224", num_classes=5, **TIMM_VIT)
    raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(CLIENTS)}")


def _processor(kind: str) -> transformers.ImageProcessingMixin:
    square = {"height": 32, "width": 32}
    if kind.startswith("clip"):
        return transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=square)
    if kind.startswith("dinov2"):  # published: resized to 256, cropped to 224, though trained at 518
        return transformers.BitImageProcessor(
            size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56}, **IMAGENET
        )
    if kind == "siglip":
        return transformers.SiglipImageProcessor(size=square)
    if kind == "convnextv2":
        return transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, **IMAGENET)
    return transformers.ViTImageProcessor(size=square, **(IMAGENET if kind == "swin" else {}))


def _vae(**options: object) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=4,
        sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        **options,
    )


def _write_tokenizer(folder: Path) -> int:
    """A real CLIPTokenizer that knows single characters; "" becomes `[bos, eos, eos, ...]`. Returns its size."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(tokens)


def _save(folder: Path, model: nn.Module) -> None:
    model.eval().save_pretrained(folder)  # type: ignore[operator]


def _write_index(folder: Path, class_name: str, parts: dict[str, list[str]]) -> Path:
    index = {"_class_name": class_name, "_diffusers_version": diffusers.__version__, **parts}
    (folder / "model_index.json").write_text(json.dumps(index, indent=1))
    return folder


def _edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}, indent=1))


@contextmanager
def seeded() -> Iterator[None]:
    """Draw from `SEED` inside the block, leaving the caller's random state alone."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        yield
