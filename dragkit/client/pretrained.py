"""Load published vision models of transformers, timm and torchvision, with the normalisation they want."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from torch import nn

Library = Literal["auto", "transformers", "timm", "torchvision"]


class Pretrained(NamedTuple):
    """A model and how it wants its images.

    Attributes:
        model: with its published weights.
        image_size: (height, width).
        mean, std: three numbers each, for images in [0, 1].
        interpolation: "bilinear" or "bicubic" (anything else is refused by `SplitClient`).
        name: for people.
    """

    model: nn.Module
    image_size: tuple[int, int]
    mean: Sequence[float]
    std: Sequence[float]
    interpolation: str
    name: str


def load_pretrained(source: str, library: Library, dtype: torch.dtype) -> Pretrained:
    """Load `source`: "timm:NAME", "local-dir:FOLDER" (timm), "torchvision:NAME", else a folder or name of `library`.

    Raises:
        OSError: files missing or hub out of reach. ValueError: unknown library, model or class; wrong weights.
    """
    library, source = _which_library(source, library)
    if library == "timm":
        return _load_timm(source)
    if library == "torchvision":
        return _load_torchvision(source)
    return _load_transformers(source, dtype)


def _which_library(source: str, library: Library) -> tuple[Library, str]:
    """The library and what it calls the model; a folder whose config.json names an `architecture` is timm's."""
    if library not in get_args(Library):
        raise ValueError(f"library is {library!r}; it must be one of {', '.join(get_args(Library))}")
    prefix, _, rest = source.partition(":")
    if prefix == "local-dir":
        return "timm", source
    if prefix != "auto" and prefix in get_args(Library) and rest:
        return cast(Library, prefix), rest
    config = Path(source) / "config.json"
    if library in ("auto", "timm") and config.is_file() and "architecture" in json.loads(config.read_text()):
        return "timm", f"local-dir:{source}"
    return ("transformers" if library == "auto" else library), source


def _unreachable(source: str, files: str) -> OSError:
    return OSError(
        f"cannot load {source!r}: it is no folder with {files}, is not in the local cache, and the hub did not answer. "
        "Check the spelling, or download it where there is a network and pass the path of the folder"
    )


def _load_transformers(source: str, dtype: torch.dtype) -> Pretrained:
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(source)
        processor = transformers.AutoImageProcessor.from_pretrained(source)
        architecture = _vision_class(config)
        # Always name the dtype: without it transformers follows the file's.
        options = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
        model, report = architecture.from_pretrained(source, **options)
    except OSError as error:
        raise _unreachable(source, "config.json, preprocessor_config.json and model.safetensors") from error
    except RuntimeError as error:
        raise ValueError(f"the weights of {source!r} do not fit its config.json: {error}") from error
    missing = sorted(report["missing_keys"])
    if missing and all(key.startswith("pooler.") for key in missing):
        model.pooler, missing = None, []  # an optional head that many published ViTs come without
    if missing:
        few = ", ".join(missing[:4])
        raise ValueError(f"{source!r} lacks {len(missing)} weights of {architecture.__name__}: {few}")
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ((0.0,) * 3, (1.0,) * 3)
    pil = int(processor.resample)
    resample = {2: "bilinear", 3: "bicubic"}.get(pil, f"PIL code {pil}")
    return Pretrained(model, _processor_size(processor), mean, std, resample, Path(source).name)


def _processor_size(processor: Any) -> tuple[int, int]:
    """(height, width) that an image processor of transformers ends with: its crop, else its size."""
    cropped = getattr(processor, "crop_size", None) and processor.do_center_crop
    size = dict(processor.crop_size if cropped else processor.size)
    height, width = (size.get(side) or size.get("shortest_edge") for side in ("height", "width"))
    if not height or not width:
        raise ValueError(
            f"{type(processor).__name__} states no image size but {size}; pass the model to SplitClient yourself"
        )
    return int(height), int(width)


def _vision_class(config: Any) -> Any:
    """The class to build: the checkpoint's own, or the vision tower of a two-tower model (CLIP, SigLIP)."""
    import transformers

    name = (config.architectures or ["AutoModel"])[0]
    tower = name.removesuffix("Model") + "VisionModel"
    names = [f"{tower}WithProjection", tower] if hasattr(config, "vision_config") else [name]
    found = next((getattr(transformers, n) for n in names if hasattr(transformers, n)), None)
    if found is None:
        raise ValueError(f"transformers {transformers.__version__} has no image model for the class {name} of {config}")
    return found


def _load_timm(source: str) -> Pretrained:
    import timm

    if source.startswith("local-dir:"):
        folder = Path(source.removeprefix("local-dir:"))
        for file in ("config.json", "model.safetensors"):  # timm would also take pickled weights
            if not (folder / file).is_file():
                raise OSError(f"{folder} has no {file}; timm.models.save_for_hf(model, folder) writes such a folder")
    elif not timm.is_model(source):
        near = difflib.get_close_matches(source, timm.list_models(), n=4)
        raise ValueError(f"timm {timm.__version__} has no model {source!r}; near it: {', '.join(near) or 'nothing'}")
    try:
        model = timm.create_model(source, pretrained=True)
    except (OSError, ValueError) as error:
        raise _unreachable(source, "config.json and model.safetensors") from error
    config = timm.data.resolve_model_data_config(model)
    _, height, width = config["input_size"]
    return Pretrained(model, (height, width), config["mean"], config["std"], config["interpolation"], Path(source).name)


def _load_torchvision(source: str) -> Pretrained:
    from torchvision import models

    if source not in models.list_models(models):
        near = difflib.get_close_matches(source, models.list_models(models), n=4)
        raise ValueError(f"torchvision has no classifier {source!r}; near it: {', '.join(near) or 'nothing'}")
    weights = models.get_model_weights(source)["DEFAULT"]
    model = models.get_model(source, weights=None)
    try:  # torchvision publishes .pth files only: weights_only lets tensors in and no code
        model.load_state_dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except OSError as error:
        raise _unreachable(source, "torchvision weights") from error
    preset = weights.transforms()
    (side,) = preset.crop_size
    return Pretrained(model, (side, side), preset.mean, preset.std, preset.interpolation.value, source)
