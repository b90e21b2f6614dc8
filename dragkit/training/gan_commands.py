"""From a recipe to the shipped generator (`gan64`) and the encoders of GLASS++ (`gan64-encoder/...`)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from dragkit import zoo
from dragkit.metrics import ms_ssim, psnr, st_lpips
from dragkit.training.commands import export_model, measure_rebuilt, round_to_fp16, run_folder
from dragkit.training.gan import GanRecipe, GanTask
from dragkit.training.gan_encoder import EncoderRecipe, EncoderTask
from dragkit.training.loop import TrainConfig, fit, pick_device

FEATURES = "block:12"  # of the embedded client, in which samples are judged


def train_gan(config: TrainConfig, recipe: GanRecipe) -> Path:
    """Train and export the generator; the discriminator stays in the run's checkpoint. Returns the export folder."""
    device = pick_device(config.device)
    task = GanTask(recipe, config.batch, config.seed, device, zoo.load_client(at=FEATURES, device=str(device)))
    averaged: Any = fit(task, config, run_folder("gan"))
    averaged.generator.update_statistics()
    round_to_fp16(task.model, averaged)
    samples, photos = task.sample_distance(task.model.generator), task.photo_distance()
    n = len(task.reference)
    measured = {
        "kernel_distance": {"value": samples.value, "se": samples.standard_error, "n": n, "features": FEATURES},
        "kernel_distance_of_training_photos": {"value": photos.value, "se": photos.standard_error, "n": n},
    }
    return export_model(task.model.generator, "gan", zoo.GAN, measured, config, asdict(recipe))


def train_gan_encoder(config: TrainConfig, recipe: EncoderRecipe, client: str, split: str) -> Path:
    """Train and export the encoder for an embedded client, by name, cut at `split`.

    It answers in the styles of the generator just exported, or of the embedded one where there is no such run.
    """
    device = pick_device(config.device)
    exported = run_folder("gan") / "export"
    generator = exported if exported.exists() else zoo.verify(zoo.GAN)
    cut = zoo.load_client(client, split, device=str(device))
    task = EncoderTask(recipe, generator, cut, config.batch, config.seed, device)
    averaged = fit(task, config, run_folder(encoder_run(client, split)))
    round_to_fp16(task.model, averaged)
    metrics = {"psnr": psnr, "ms_ssim": ms_ssim, "st_lpips": st_lpips}
    measured = measure_rebuilt(lambda x: task.rebuild(task.model, x), metrics, device)
    command = f"gan-encoder --client {client} --split {split}"
    run, name = encoder_run(client, split), zoo.encoder_name(client, split)
    return export_model(task.model, run, name, measured, config, asdict(recipe), command)


def encoder_run(client: str, split: str) -> str:
    """Name of the training run, e.g. "gan64-encoder-vit-imagenette64-block-9"."""
    return zoo.encoder_name(client, split).replace("/", "-")
