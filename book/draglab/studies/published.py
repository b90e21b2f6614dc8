"""Every attack with the settings and budget of its publication: hours, where the other sweeps take minutes."""

from __future__ import annotations

from pathlib import Path

from dragkit import zoo
from dragkit.config import DragConfig
from dragkit.methods import METHODS
from draglab.cases import Case
from draglab.pages import claims
from draglab.pages.claims import Claim
from draglab.studies.budget import FAST, available
from draglab.studies.first_checks import PAPER, SEEDS
from draglab.tables import Rows, compare, gap

CUTS = ("block:3", "block:9", "block:12")  # one shallow, two deep

TURNS = 1000  # of DRAG with our settings, one per step: all the steps there are, and a quarter of the published turns

OURS = f"{METHODS['drag'].label}, our settings"


def published(n: int = 8, at: tuple[str, ...] = CUTS, folder: Path | None = None) -> Path:
    """Every method as published at every block, and DRAG with the settings chosen for the embedded prior.

    About eighty minutes a block on one core. A run that was stopped goes on where it was.
    """
    rows: Rows = {}
    verdicts: list[Claim] = []
    for cut in at:
        here = [name for name in available(zoo.CLIENT, cut) if METHODS[name].published]
        cases = {
            f"{METHODS[name].label}, {cut}": Case(METHODS[name].published, cut, method=name, n=n, **FAST)
            for name in here
        }
        cases[f"{OURS}, {cut}"] = Case(DragConfig.small(TURNS), cut, n=n, **FAST)
        at_cut, _ = compare(f"published-{cut.replace(':', '-')}", cases)
        for label in cases:
            at_cut[label] |= {"method": label.removesuffix(f", {cut}"), "at": cut}
        rows |= at_cut
        verdicts += [_beats(rows, name, cut) for name in here if name in ("rmle", "lm", "glass")]
    command = f"dragkit sweep published --n {n} --at {','.join(at)}"
    return claims.write("published", command, SEEDS, verdicts, {"blocks": list(at), "rows": rows}, folder)


def _beats(rows: Rows, rival: str, at: str) -> Claim:
    ours, theirs = METHODS["drag"].label, METHODS[rival].label
    return gap(
        f"published-drag-beats-{rival}/{at.replace(':', '-')}",
        f"At {at}, with the published settings and budgets of both, {ours} has a lower ST-LPIPS than {theirs}",
        rows,
        f"{ours}, {at}",
        f"{theirs}, {at}",
        "st_lpips",
        -1,
        source=f"{PAPER}, main comparison",
        notebook="08_baselines",
    )
