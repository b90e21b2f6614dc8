"""From a recipe to a shipped model: train, measure on the whole validation split, export as fp16 safetensors with a card."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from dragkit import utility, zoo
from dragkit.data import cache_dir, imagenette
from dragkit.defenses import make
from dragkit.metrics import ms_ssim, psnr, ssim, st_lpips
from dragkit.record import provenance
from dragkit.training import autoencoder, classifier, inverse, prior, server
from dragkit.training.loop import TrainConfig, fit, pick_device

DATA = (
    "Imagenette, train split (9,469 photos of ten ImageNet classes), by fast.ai (repository: Apache-2.0); "
    "the photos keep ImageNet's terms (non-commercial research)"
)
LIMITS = (
    "64x64 pixels, ten classes; made for teaching and for auditing this package's own figures, not for use elsewhere"
)


def run_folder(name: str) -> Path:
    """Where a training run keeps its checkpoint, log and pictures."""
    return cache_dir() / "runs" / name


def part_run(prior_name: str, part: str) -> str:
    """Name of the training run of a prior's part, "vae" or "unet": where `zoo.find` looks for what is not shipped."""
    return f"{prior_name}/{part}".replace("/", "-")


def train_autoencoder(config: TrainConfig, recipe: autoencoder.AutoencoderRecipe, name: str = zoo.PRIOR) -> Path:
    """Train and export the autoencoder of the prior `name`. Returns the export folder."""
    device, run = pick_device(config.device), part_run(name, "vae")
    task = autoencoder.AutoencoderTask(recipe, config.batch, config.seed, device)
    model = fit(task, config, run_folder(run))
    round_to_fp16(task.model, model)
    with torch.no_grad():
        latents = prior.encode_all(task.model, imagenette("train")[0][::4], device)
    task.model.register_to_config(scaling_factor=float(1 / latents.std()))
    measured = measure_autoencoder(task.model, device)
    return export_model(task.model, run, f"{name}/vae", measured, config, asdict(recipe), f"autoencoder --name {name}")


def train_prior(config: TrainConfig, recipe: prior.PriorRecipe, name: str = zoo.PRIOR) -> Path:
    """Train and export the noise predictor of the prior `name`, on its autoencoder's latents (just exported, or shipped)."""
    run, vae = part_run(name, "unet"), run_folder(part_run(name, "vae")) / "export"
    vae = vae if vae.exists() else zoo.verify(f"{name}/vae")
    task = prior.PriorTask(recipe, vae, config.batch, config.seed, pick_device(config.device))
    model = fit(task, config, run_folder(run))
    round_to_fp16(task.model, model)
    measured = {"noise_loss": {"value": task.evaluate(task.model)["noise_loss"], "n": len(task.val)}}
    out = export_model(task.model, run, f"{name}/unet", measured, config, asdict(recipe), f"prior --name {name}")
    task.scheduler.save_pretrained(out / "scheduler")
    return out


def train_classifier(config: TrainConfig, recipe: classifier.ClassifierRecipe) -> Path:
    """Train and export the ViT."""
    device = pick_device(config.device)
    task = classifier.ClassifierTask(recipe, config.batch, config.seed, device)
    model = fit(task, config, run_folder("classifier"))
    round_to_fp16(task.model, model)
    measured = {"top1": {"value": classifier.top1(task.model, task.val, task.val_labels), "n": len(task.val)}}
    out = export_model(task.model, "classifier", zoo.CLIENT, measured, config, asdict(recipe))
    classifier.image_processor().save_pretrained(out)
    return out


def train_inverse(
    config: TrainConfig, recipe: inverse.InverseRecipe, client: str, split: str, defence: str = ""
) -> Path:
    """Train and export the inverse network of an embedded client, by name, cut at `split`, against a `defence` (its recipe)."""
    device = pick_device(config.device)
    cut = zoo.load_client(client, split)
    against = make(defence, cut) if defence else None
    task = inverse.InverseTask(recipe, cut, config.batch, config.seed, device, against)
    run = inverse_run(client, split, defence)
    model = fit(task, config, run_folder(run))
    round_to_fp16(task.model, model)
    metrics = {"psnr": psnr, "ms_ssim": ms_ssim, "st_lpips": st_lpips}
    measured = measure_rebuilt(lambda x: task.rebuild(task.model, x), metrics, device)
    name, command = zoo.inverse_name(client, split, defence), f"inverse --client {client} --split {split}"
    command += f" --defence {defence}" if defence else ""
    return export_model(task.model, run, name, measured, config, asdict(recipe), command)


def inverse_run(client: str, split: str, defence: str = "") -> str:
    """Name of the training run of an inverse network, e.g. "inverse-vit-imagenette64-block-9"."""
    return zoo.inverse_name(client, split, defence).replace("/", "-")


def inverse_start(client: str, split: str, defence: str = "") -> str:
    """The inverse network to go on from: the client's undefended one, else that of the client it was fine-tuned from, else ""."""
    own, parent = zoo.inverse_name(client, split), zoo.inverse_name(zoo.CLIENT, split)
    for name, fits in ((own, bool(defence)), (parent, client not in zoo.CLIENTS)):
        if fits and zoo.available(name):
            return name
    return ""


def train_server(config: TrainConfig, recipe: server.ServerRecipe, client: str, split: str, defence: str) -> Path:
    """Train and export a ViT whose server half, after `split`, knows a `defence` (its recipe); the client half stays."""
    device = pick_device(config.device)
    cut = zoo.load_client(client, split, device=str(device))
    against = make(defence, cut)
    run, name = server_run(client, split, defence), zoo.server_name(client, split, defence)
    task = server.ServerTask(recipe, cut, against, config.batch, config.seed, device)
    model = fit(task, config, run_folder(run))
    round_to_fp16(task.model, model)
    measured = {
        "top1": _top1(utility.per_photo_right(task.client, against, server=task.serving(task.model))),
        "top1_before": _top1(utility.per_photo_right(task.client, against)),
        "top1_undefended": _top1(utility.per_photo_right(task.client)),
    }
    command = f"server --client {client} --split {split} --defence {defence}"
    out = export_model(task.model, run, name, measured, config, asdict(recipe), command)
    classifier.image_processor().save_pretrained(out)
    return out


def server_run(client: str, split: str, defence: str) -> str:
    """Name of the training run of a server, e.g. "server-vit-imagenette64-block-6+drop-0.5"."""
    return zoo.server_name(client, split, defence).replace("/", "-")


def _top1(right: Tensor) -> dict[str, Any]:
    return {"value": right.double().mean().item(), "n": len(right)}


def measure_autoencoder(model: AutoencoderKL, device: torch.device) -> dict[str, Any]:
    """Round trip (posterior mean) of the whole validation split: mean PSNR in dB, SSIM, ST-LPIPS."""
    metrics = {"psnr": psnr, "ssim": ssim, "st_lpips": st_lpips}
    return measure_rebuilt(lambda x: autoencoder.reconstruct(model, x), metrics, device)


@torch.no_grad()
def measure_rebuilt(
    rebuild: Callable[[Tensor], Tensor], metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]], device: torch.device
) -> dict[str, Any]:
    """Mean of every metric between all validation photos and what `rebuild` makes of them."""
    values: dict[str, list[float]] = {name: [] for name in metrics}
    for part in imagenette("val")[0].split(128):
        x = part.to(device).float() / 255
        y = rebuild(x)
        for name, metric in metrics.items():
            values[name] += metric(y, x).tolist()
    return {name: {"value": sum(v) / len(v), "n": len(v)} for name, v in values.items()}


def ship(run: str) -> Path:
    """Copy a run's export into `dragkit/zoo`, where it becomes the embedded model; returns the folder there."""
    export = run_folder(run) / "export"
    if not (export / "card.json").exists():
        raise FileNotFoundError(f"run {run!r} has no finished export in {export}; train it first")
    card = json.loads((export / "card.json").read_text())
    target = zoo.FOLDER / card["name"]
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(export, target)
    if (target / "scheduler").exists():  # the prior's scheduler sits beside its unet
        shutil.rmtree(target.parent / "scheduler", ignore_errors=True)
        (target / "scheduler").rename(target.parent / "scheduler")
    zoo.verify.cache_clear()
    return target


def check_recipe(folder: Path, recipe: Any) -> None:
    """`fit` goes on from a checkpoint whatever the recipe says, so a name belongs to one recipe."""
    file, given = folder / "recipe.json", asdict(recipe)
    known = json.loads(file.read_text()) if file.exists() else given
    if not file.exists() and (folder / "checkpoint").exists():
        raise ValueError(f"the run in {folder} does not say its recipe; choose another --name, or delete the folder")
    changed = ", ".join(
        f"{key} {known.get(key)!r} -> {value!r}" for key, value in given.items() if known.get(key) != value
    )
    if changed:
        raise ValueError(
            f"the run in {folder} has another recipe ({changed}); choose another --name, or delete the folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(given, indent=1) + "\n")


def round_to_fp16(model: nn.Module, averaged: nn.Module) -> None:
    """Put the averaged weights, as precise as they are shipped, into `model`: what is measured is what is shipped."""
    model.load_state_dict(averaged.state_dict())
    model.half().float().eval()


def export_model(
    model: Any,
    run: str,
    name: str,
    measured: dict[str, Any],
    config: TrainConfig,
    recipe: dict[str, Any],
    command: str = "",
) -> Path:
    """Write the model and its card into the run's folder. `command`: what follows `dragkit train`, `run` where empty."""
    folder = run_folder(run)
    out = folder / "export"
    shutil.rmtree(out, ignore_errors=True)
    model.to(torch.float16).save_pretrained(out)
    model.to(torch.float32)
    state = json.loads((folder / "checkpoint" / "state.json").read_text())
    card = {
        "name": name,
        "class": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "command": "dragkit " + " ".join(sys.argv[1:])
        if "dragkit" in sys.argv[0]
        else f"dragkit train {command or run} --steps {config.steps}",
        "data": DATA,
        "measured": measured,
        "limits": LIMITS,
        "config": asdict(config),
        "recipe": recipe,
        "steps": state["step"],
        "training_seconds": round(state["seconds"]),
        "date": date.today().isoformat(),
        **provenance(),
        "sha256": {p.name: zoo.file_sha256(p) for p in sorted(out.glob("*.safetensors"))},
    }
    (out / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    return out
