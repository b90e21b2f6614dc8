"""From a recipe to a client trained with NoPeek, which `zoo.load_client` finds by its name."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from dragkit import zoo
from dragkit.client import SplitClient
from dragkit.probe import rate
from dragkit.training.classifier import MEAN, STD, image_processor
from dragkit.training.commands import check_recipe, export_model, round_to_fp16, run_folder
from dragkit.training.loop import TrainConfig, fit, pick_device
from dragkit.training.nopeek import NopeekRecipe, NopeekTask, measure_correlation
from dragkit.utility import per_photo_right

NAME = f"nopeek-{zoo.CLIENT}"


def train_nopeek(config: TrainConfig, recipe: NopeekRecipe, name: str = NAME) -> Path:
    """Train and export a client under `name`; it begins from the shipped client. Returns the export folder.

    Raises:
        ValueError: a name that does not begin with "nopeek-", by which the studies find it, or that is no folder's.
    """
    if not name.startswith("nopeek-") or set(name) & set("/:\\"):
        raise ValueError(f"name is {name!r}; it must begin with nopeek- and have no / and :, such as {NAME}")
    check_recipe(run_folder(name), recipe)
    task = NopeekTask(recipe, config.batch, config.seed, pick_device(config.device))
    model = fit(task, config, run_folder(name))
    round_to_fp16(task.model, model)
    top1 = rate(per_photo_right(SplitClient(task.model, f"block:{recipe.block}", image_size=64, mean=MEAN, std=STD)))
    measured: dict[str, Any] = {"top1": {"value": top1.mean, "ci": [top1.low, top1.high], "n": len(task.val)}}
    measured |= measure_correlation(lambda x: task.answer(task.model, x)[1], task.val)
    out = export_model(
        task.model, name, name, measured, config, asdict(recipe), f"nopeek --name {name} --weight {recipe.weight}"
    )
    image_processor().save_pretrained(out)
    return out
