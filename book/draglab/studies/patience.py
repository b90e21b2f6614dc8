"""Quality against seconds: every method for short budgets, and DRAG against LM, which has no trained prior, for long ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dragkit import zoo
from dragkit.attacks.message import Message
from dragkit.methods import METHODS
from draglab.cases import round_trip, run
from draglab.pages import claims
from draglab.studies.budget import equal_cases
from draglab.studies.first_checks import SEEDS
from draglab.tables import Rows, gap, result_row, row

AT = "block:12"

SHORT = (20, 40, 80, 160)

LONG = (80, 250, 1000, 4000)


def budgets(n: int = 32, at: str = AT, folder: Path | None = None) -> Path:
    """Quality against seconds: every method for the time of 20 to 160 turns of DRAG, beside the inverse network's one pass."""
    rows, _ = _for_every_budget(SHORT, at, n)
    return claims.write("budgets", f"dragkit sweep budgets --n {n}", SEEDS, [], {"at": at, "rows": rows}, folder)


def patience(n: int = 8, at: str = AT, folder: Path | None = None) -> Path:
    """Does the prior only buy time? DRAG and LM far beyond `budgets`, on fewer photos, beside the prior's own round trip.

    About forty minutes on one core.
    """
    rows, photos = _for_every_budget(LONG, at, n, ("drag", "lm"))
    rows["decoder ceiling"] = _ceiling(photos, at)
    verdicts = [_overtakes(rows, at, turns) for turns in (LONG[0], LONG[-1])]
    return claims.write(
        "patience", f"dragkit sweep patience --n {n}", SEEDS, verdicts, {"at": at, "rows": rows}, folder
    )


def _for_every_budget(budgets: tuple[int, ...], at: str, n: int, methods: tuple[str, ...] = ()) -> tuple[Rows, Tensor]:
    """Rows "DRAG, 80 turns" of the methods for the time of so many turns of DRAG ("inverse network" has no budget); the photos."""
    rows: Rows = {}
    for turns in budgets:
        for case in equal_cases(zoo.CLIENT, at, turns, n, methods).values():
            result = run(case)
            extra = {} if case.name == "inverse" else {"turns": turns}
            rows[_label(case.name, **extra)] = result_row(result) | extra
    return rows, result.photos


def _label(name: str, turns: int | None = None) -> str:
    return METHODS[name].label + (f", {turns} turns" if turns else "")


@torch.no_grad()
def _ceiling(photos: Tensor, at: str) -> dict[str, Any]:
    """The photos through encoder and decoder, with their IR distance."""
    client = zoo.load_client(zoo.CLIENT, at)
    images = round_trip(photos, zoo.load_prior(zoo.PRIOR))
    distance = Message(client(photos), client).measure(images)
    return row(images, photos) | {"distance": [round(v, 5) for v in distance.tolist()]}


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
