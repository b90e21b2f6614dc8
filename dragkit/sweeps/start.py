"""Where DRAG starts: from noise, from an inverse network's guess under noise of several strengths, from flat grey."""

from __future__ import annotations

from pathlib import Path

from dragkit import claims
from dragkit.attacks import DragConfig, InverseConfig
from dragkit.comparison import Rows, compare, gap
from dragkit.experiment import Case
from dragkit.measurements import PAPER, SEEDS
from dragkit.sweeps.budget import FAST

STRENGTHS = (0.1, 0.3, 0.5, 0.7)  # 0.3 as published; 1 is DRAG from noise


def starts(
    turns: int = 48, n: int = 32, blocks: tuple[str, ...] = ("block:6", "block:12"), folder: Path | None = None
) -> Path:
    """The same number of turns from every start, all of them in the part of the diffusion that the start's strength leaves."""
    rows: Rows = {}
    for at in blocks:
        cases = {
            f"noise, {at}": Case(DragConfig.small(turns), at, n=n, **FAST),
            f"the guess itself, {at}": Case(InverseConfig(), at, n=n, **FAST),
        }
        for strength in STRENGTHS:
            config = DragConfig.small_plus(turns, strength)
            cases[f"guess, strength {strength}, {at}"] = Case(config, at, method="drag++", n=n, **FAST)
            cases[f"grey, strength {strength}, {at}"] = Case(config, at, method="drag-grey", n=n, **FAST)
        found, _ = compare(f"starts-{at.replace(':', '-')}", cases)
        rows |= {label: row | {"at": at} for label, row in found.items()}
    made = [
        gap(
            f"guess-beats-grey/{at.replace(':', '-')}",
            f"At {at}, strength 0.3 and {turns} turns, DRAG from the inverse network's guess has a lower ST-LPIPS than from grey",
            rows,
            f"guess, strength 0.3, {at}",
            f"grey, strength 0.3, {at}",
            "st_lpips",
            -1,
            source=f"{PAPER}, DRAG++",
            notebook="09_dragpp",
        )
        for at in blocks
    ]
    command = f"dragkit sweep starts --turns {turns} --n {n} --blocks {','.join(blocks)}"
    told = {"turns": turns, "blocks": list(blocks), "strengths": list(STRENGTHS), "rows": rows}
    return claims.write("starts", command, SEEDS, made, told, folder)
