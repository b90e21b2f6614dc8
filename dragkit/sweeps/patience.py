"""Does the prior only buy time? DRAG and LM, which has no trained prior, from seconds to minutes per photo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dragkit import claims, experiment, zoo
from dragkit.comparison import Rows, gap, result_row, row
from dragkit.distance import cosine_distance
from dragkit.experiment import Case
from dragkit.measurements import SEEDS
from dragkit.methods import METHODS
from dragkit.sweeps.budget import FAST, equal_seconds

TURNS = (80, 250, 1000, 4000)
TRIED = ("drag", "lm")


def patience(n: int = 8, at: str = "block:12", turns: tuple[int, ...] = TURNS, folder: Path | None = None) -> Path:
    """Quality against seconds far beyond `budgets`, on fewer photos; and what the prior's decoder could reach at best.

    About forty minutes on one core.
    """
    rows: Rows = {}
    for budget in turns:
        for name, config in equal_seconds(zoo.CLIENT, at, list(TRIED), budget).items():
            case = Case(config, at, method=name, n=n, **FAST)
            found = experiment.run(case)
            rows[_label(name, budget)] = result_row(found) | {"turns": budget}
    rows["decoder ceiling"] = _ceiling(found.photos, at)
    made = [_overtakes(rows, at, budget) for budget in (turns[0], turns[-1])]
    command = f"dragkit sweep patience --n {n}"
    return claims.write("patience", command, SEEDS, made, {"at": at, "rows": rows}, folder)


@torch.no_grad()
def _ceiling(photos: Tensor, at: str) -> dict[str, Any]:
    """The photos through encoder and decoder, with their IR distance."""
    client = zoo.load_client(zoo.CLIENT, at)
    images = experiment.references(photos, zoo.load_prior(zoo.PRIOR))["decoder ceiling"]
    distance = cosine_distance(client.tokens(client(images)), client.tokens(client(photos)))
    return row(images, photos) | {"distance": [round(v, 5) for v in distance.tolist()]}


def _label(name: str, turns: int) -> str:
    return f"{METHODS[name].label}, {turns} turns"


def _overtakes(rows: Rows, at: str, turns: int) -> claims.Claim:
    return gap(
        f"lm-overtakes-drag/{at.replace(':', '-')}/{turns}-turns",
        f"At {at}, for the time of {turns:,} turns of DRAG, LM has a lower ST-LPIPS than DRAG",
        rows,
        _label("lm", turns),
        _label("drag", turns),
        "st_lpips",
        -1,
        source="this library",
        notebook="08_baselines",
    )
