"""From a recipe to a client trained with DISCO, `disco-vit-imagenette64`, and its `pruner/disco-vit-imagenette64/block-6`."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dragkit import utility, zoo
from dragkit.defenses.disco import pruner_name
from dragkit.metrics import psnr
from dragkit.training.classifier import image_processor
from dragkit.training.commands import check_recipe, export_model, measure_rebuilt, round_to_fp16, run_folder
from dragkit.training.disco import DiscoRecipe, DiscoTask
from dragkit.training.loop import TrainConfig, fit, pick_device

NAME = f"disco-{zoo.CLIENT}"
AT = "block:6"


def train_disco(config: TrainConfig, recipe: DiscoRecipe, name: str = NAME, at: str = AT) -> Path:
    """Train and export a client under `name`, and its pruner beside it; both begin from the shipped client at the cut `at`.

    Returns the client's export folder; `disco_runs` says what to ship.

    Raises:
        ValueError: a name that is taken or no name of a folder, or a cut without a shipped inverse network to begin from.
    """
    client_run, pruner_run = disco_runs(name, at)
    check_recipe(run_folder(client_run), recipe)
    device = pick_device(config.device)
    client, adversary = zoo.load_client(at=at, device=str(device)), zoo.load_inverse(at=at, device=str(device))
    task = DiscoTask(recipe, client, adversary, config.batch, config.seed, device)
    averaged = fit(task, config, run_folder(client_run))
    round_to_fp16(task.model, averaged)
    task.model.requires_grad_(False)
    task.measure_average(task.model)
    measured = measure(task)
    settings, command = asdict(recipe), f"disco --name {name}"
    export = export_model(task.model.pruner, client_run, pruner_name(name, at), measured, config, settings, command)
    _move(export, run_folder(pruner_run) / "export")
    out = export_model(task.model.client.model, client_run, name, measured, config, settings, command)
    image_processor().save_pretrained(out)
    return out


def disco_runs(name: str = NAME, at: str = AT) -> tuple[str, str]:
    """Names of the two runs to ship: the client's, and the pruner's, whose folder only has an export.

    Raises:
        ValueError: the name of a client that is there already, or one with a slash or a colon.
    """
    if name in zoo.CLIENTS or not name or set(name) & set("/:\\"):
        raise ValueError(f"name is {name!r}; it must be a new one without / and :, such as {NAME}")
    return name, pruner_name(name, at).replace("/", "-")


@torch.no_grad()
def measure(task: DiscoTask) -> dict[str, Any]:
    """On the whole validation split: accuracy with and without the mask, and PSNR of the adversary against the mask."""
    client, defence = task.model.client, task.defence(task.model)
    quality = measure_rebuilt(lambda x: task.rebuild(task.model, x), {"adversary_psnr": psnr}, task.device)
    right = {"top1": utility.per_photo_right(client, defence), "top1_no_mask": utility.per_photo_right(client)}
    return {**{key: _share(values) for key, values in right.items()}, **quality}


def _share(right: Tensor) -> dict[str, Any]:
    return {"value": right.double().mean().item(), "n": len(right)}


def _move(export: Path, target: Path) -> None:
    """`zoo.find` looks for every model in a run folder of its own."""
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    export.rename(target)
