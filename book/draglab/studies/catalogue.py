"""Every study by the name that the command line and the records use; a study is loaded when it is run."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

SWEEPS = {
    "search": "tuning:search",
    "baselines": "depth:baselines",
    "ablations": "ingredients:ablations",
    "recurrence_curve": "ingredients:recurrence_curve",
    "rates": "ingredients:rates",
    "retrieval": "identity:retrieval",
    "budgets": "patience:budgets",
    "patience": "patience:patience",
    "starts": "start:starts",
    "pixels": "pixel_space:pixels",
    "published": "published:published",
    "defence_noise": "noise:noise",
    "defence_tokens": "tokens:tokens",
    "defence_transport": "transport:transport",
    "defence_nopeek": "nopeek:nopeek",
    "defence_disco": "disco:disco",
    "defence_randomness": "randomness:randomness",
    "bounds": "guarantees:bounds",
    "bits": "guarantees:bits",
}
"""`dragkit sweep NAME`: name -> module and function."""

MEASUREMENTS = {
    "models": "embedded_models:models",
    "noise": "noise_loss:noise",
    "overfit": "first_checks:overfit",
    "overfit_small": "first_checks:overfit_small",
    "recurrence": "first_checks:recurrence",
    "shuffle": "first_checks:shuffle",
    "deep": "first_checks:deep",
}
"""`dragkit measure NAME`: name -> module and function."""


def load(entry: str) -> Callable[..., Path]:
    """The function that an entry such as "depth:baselines" names."""
    module, _, function = entry.partition(":")
    return getattr(import_module(f"draglab.studies.{module}"), function)
