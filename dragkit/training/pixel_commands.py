"""From a recipe to the shipped pixel-space prior (`pixel64`)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from dragkit import zoo
from dragkit.data import imagenette
from dragkit.training.commands import export_model, round_to_fp16, run_folder
from dragkit.training.loop import TrainConfig, fit, pick_device
from dragkit.training.pixel_prior import PixelRecipe, PixelTask, to_pixels

MODEL = f"{zoo.PIXEL_PRIOR}/unet"
RUN = MODEL.replace("/", "-")  # by this name `zoo.find` also sees an export that was not shipped


def train_pixel_prior(config: TrainConfig, recipe: PixelRecipe) -> Path:
    """Train and export the noise predictor on pixels. Returns the export folder, which `PixelPrior.from_pretrained` loads.

    Its card holds the noise loss of the whole validation split.
    """
    task = PixelTask(recipe, config.batch, config.seed, pick_device(config.device))
    model = fit(task, config, run_folder(RUN))
    round_to_fp16(task.model, model)
    task.val = to_pixels(imagenette("val")[0]).to(task.device)
    with torch.no_grad():
        measured = {"noise_loss": {"value": task.evaluate(task.model)["noise_loss"], "n": len(task.val)}}
    out = export_model(task.model, RUN, MODEL, measured, config, asdict(recipe), "pixel-prior")
    task.scheduler.save_pretrained(out / "scheduler")
    return out
