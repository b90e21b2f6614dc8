"""The choice of DRAG's settings for the small prior, on training photos."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from dragkit.config import DragConfig
from draglab.cases import Case, run
from draglab.pages import claims
from draglab.studies.budget import FAST
from draglab.studies.first_checks import SEEDS
from draglab.tables import Rows, result_row

SPACE: dict[str, list[Any]] = {
    "recurrence": [1, 2, 4],
    "guidance_rate": [0.35, 0.5, 0.65, 0.8],
    "betas": [(0.9, 0.999), (0.7, 0.9), (0.5, 0.9), (0.3, 0.6)],
    "clip": [0.02, None],
    "eta": [1.0, 0.7],
}

FINER: dict[str, list[Any]] = {
    "recurrence": [1, 2],
    "guidance_rate": [0.5, 0.65, 0.8],
    "betas": [(0.3, 0.6), (0.3, 0.9), (0.0, 0.6)],
    "eta": [0.5, 0.85],
}


def search(turns: int = 100, n: int = 8, trials: int = 12, folder: Path | None = None) -> Path:
    """Choose DRAG's settings on training photos, at the embeddings and after the last block.

    Random trials (the published settings, with four turns per step, are the first), then one setting of the best at a time. Best
    is the lowest mean ST-LPIPS over both cuts. The log is committed, the winner is `DragConfig.small`.
    """
    draw = random.Random(0)
    rows: Rows = {}
    tried: dict[str, DragConfig] = {}

    def attempt(config: DragConfig) -> None:
        label = ", ".join(f"{name} {getattr(config, name)}" for name in SPACE)
        tried[label] = config
        for at in ("block:0", "block:12"):
            result = run(Case(config, at, n=n, subset="train", **FAST))
            rows[f"{label}, {at}"] = result_row(result) | {"config": vars(config), "at": at}

    def best() -> DragConfig:
        return tried[
            min(tried, key=lambda t: sum(rows[f"{t}, {at}"]["st_lpips"]["mean"] for at in ("block:0", "block:12")))
        ]

    attempt(DragConfig(num_steps=turns // 4, recurrence=4))
    while len(tried) < trials:
        attempt(_changed(DragConfig(final_tweedie=True), turns, **{name: draw.choice(v) for name, v in SPACE.items()}))
    for name, values in FINER.items():
        for value in values:
            attempt(_changed(best(), turns, **{name: value}))
    command = f"dragkit sweep search --turns {turns} --n {n}"
    extra = {"turns": turns, "split": "train", "winner": vars(best()), "rows": rows}
    return claims.write("search", command, SEEDS, [], extra, folder)


def _changed(config: DragConfig, turns: int, **changes: Any) -> DragConfig:
    """`config` with changes and as many steps as make `turns` turns."""
    changed = config.with_(**changes)
    return changed.with_(num_steps=turns // changed.recurrence)
