"""Where DRAG starts: from noise, from an inverse network's guess under noise of several strengths, from flat grey."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dragkit.config import DragConfig
from dragkit.measures.metrics import st_lpips
from draglab.cases import Case, run
from draglab.pages import claims
from draglab.studies.budget import FAST
from draglab.studies.first_checks import PAPER, SEEDS
from draglab.tables import Rows, compare, gap

STRENGTHS = (0.05, 0.1, 0.3, 0.5, 0.7)  # 0.3 as published; 1 is DRAG from noise


def starts(
    turns: int = 48, n: int = 32, at: tuple[str, ...] = ("block:6", "block:12"), folder: Path | None = None
) -> Path:
    """The same number of turns from every start, all of them in the part of the diffusion that the start's strength leaves.

    The strength that `DragConfig.small_plus` has is that of the lowest mean ST-LPIPS over all cuts on as many training photos.
    """
    tuned = {s: _on_training_photos(DragConfig.small_plus(turns, s), at, n) for s in STRENGTHS}
    rows: Rows = {}
    for cut in at:
        cases = {
            f"noise, {cut}": Case(DragConfig.small(turns), cut, n=n, **FAST),
            f"the guess itself, {cut}": Case(None, cut, n=n, **FAST),
        }
        for strength in STRENGTHS:
            config = DragConfig.small_plus(turns, strength)
            cases[f"guess, strength {strength}, {cut}"] = Case(config, cut, method="drag++", n=n, **FAST)
            cases[f"grey, strength {strength}, {cut}"] = Case(config, cut, method="drag-grey", n=n, **FAST)
        at_cut, _ = compare(f"starts-{cut.replace(':', '-')}", cases)
        rows |= {label: row | {"at": cut} for label, row in at_cut.items()}
    verdicts = [
        gap(
            f"guess-beats-grey/{cut.replace(':', '-')}",
            f"At {cut}, strength 0.3 and {turns} turns, DRAG from the inverse network's guess has a lower ST-LPIPS than from grey",
            rows,
            f"guess, strength 0.3, {cut}",
            f"grey, strength 0.3, {cut}",
            "st_lpips",
            -1,
            source=f"{PAPER}, DRAG++",
            notebook="09_dragpp",
        )
        for cut in at
    ]
    command = f"dragkit sweep starts --turns {turns} --n {n} --at {','.join(at)}"
    extra: dict[str, Any] = {"turns": turns, "blocks": list(at), "strengths": list(STRENGTHS), "rows": rows}
    extra |= {"on_training_photos": tuned, "chosen": min(tuned, key=lambda s: tuned[s])}
    return claims.write("starts", command, SEEDS, verdicts, extra, folder)


def _on_training_photos(config: DragConfig, at: tuple[str, ...], n: int) -> float:
    """Mean ST-LPIPS of DRAG++ over all cuts."""
    results = [run(Case(config, cut, method="drag++", n=n, subset="train", **FAST)) for cut in at]
    return round(sum(float(st_lpips(r.images, r.photos).mean()) for r in results) / len(results), 5)
