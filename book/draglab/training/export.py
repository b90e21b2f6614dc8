"""From a recipe to a shipped model: train, measure on the all validation photos, export as fp16 safetensors with a card."""

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
from torch import Tensor, nn

from dragkit import zoo
from dragkit.cache import cache_dir
from dragkit.data import imagenette
from dragkit.provenance import provenance
from dragkit.zoo import cards
from draglab.training.loop import CHECKPOINT, TrainConfig, saved_state

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
    target = cards.FOLDER / card["name"]
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(export, target)
    if (target / "scheduler").exists():  # the prior's scheduler sits beside its unet
        shutil.rmtree(target.parent / "scheduler", ignore_errors=True)
        (target / "scheduler").rename(target.parent / "scheduler")
    zoo.verify.cache_clear()
    return target


def share(right: Tensor) -> dict[str, Any]:
    """The share of photos that are right, as cards hold it; from a bool per photo."""
    return {"value": right.double().mean().item(), "n": len(right)}


def same_recipe(folder: Path, recipe: Any) -> None:
    """`fit` goes on from a checkpoint whatever the recipe says, so a name belongs to one recipe."""
    file, given = folder / "recipe.json", asdict(recipe)
    known = json.loads(file.read_text()) if file.exists() else given
    if not file.exists() and (folder / CHECKPOINT).exists():
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
    state = saved_state(folder)
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
