"""From a recipe to a client trained with NoPeek, which `zoo.load_client` finds by its name."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from dragkit import zoo
from dragkit.training import classifier
from dragkit.training.commands import export_model, round_to_fp16, run_folder
from dragkit.training.loop import TrainConfig, fit, pick_device
from dragkit.training.nopeek import NopeekRecipe, NopeekTask

NAME = f"nopeek-{zoo.CLIENT}"


def train_nopeek(config: TrainConfig, recipe: NopeekRecipe, name: str = NAME) -> Path:
    """Train and export a client under `name`; it begins from the shipped client. Returns the export folder.

    Raises:
        ValueError: a name that does not begin with "nopeek-", by which the studies find it, or that is no folder's.
    """
    if not name.startswith("nopeek-") or set(name) & set("/:\\"):
        raise ValueError(f"name is {name!r}; it must begin with nopeek- and have no / and :, such as {NAME}")
    task = NopeekTask(recipe, config.batch, config.seed, pick_device(config.device))
    model = fit(task, config, run_folder(name))
    round_to_fp16(task.model, model)
    measured = {key: {"value": value, "n": 512} for key, value in task.evaluate(task.model).items()}
    measured["top1"] = {"value": classifier.top1(task.model, task.val, task.val_labels), "n": len(task.val)}
    out = export_model(task.model, name, name, measured, config, asdict(recipe), f"nopeek --name {name}")
    classifier.image_processor().save_pretrained(out)
    return out
