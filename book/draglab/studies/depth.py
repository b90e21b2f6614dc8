"""Every method at every depth, for the same time."""

from __future__ import annotations

from pathlib import Path

from dragkit import zoo
from dragkit.methods import METHODS
from draglab.pages import claims
from draglab.pages.claims import Claim
from draglab.studies.budget import equal_cases
from draglab.studies.first_checks import PAPER, SEEDS
from draglab.tables import Rows, compare, gap, trained_models

CUTS = ("block:0", "block:3", "block:6", "block:9", "block:12")


def baselines(
    client: str = zoo.CLIENT,
    turns: int = 160,
    n: int = 32,
    at: tuple[str, ...] = CUTS,
    folder: Path | None = None,
) -> Path:
    """Every method whose models are at hand, at every block, for the seconds that so many turns of DRAG take."""
    rows: Rows = {}
    short = "vit" if client == zoo.CLIENT else "focus"
    for cut in at:
        cases = equal_cases(client, cut, turns, n)
        at_cut, _ = compare(f"baselines-{short}-{cut.replace(':', '-')}", cases)
        for label, case in cases.items():
            models = trained_models(case.knowledge().names(METHODS[case.name].uses))
            at_cut[label] |= {
                "method": METHODS[case.name].label,
                "at": cut,
                "config": vars(case.config),
                "models": models,
            }
        rows |= at_cut
    verdicts = [c for name in ("rmle", "lm", "glass", "glass++", "inverse") for c in _beats(rows, name, client, at)]
    verdicts += _plus_improves(rows, client, at)
    command = f"dragkit sweep baselines --client {client} --turns {turns} --n {n} --at {','.join(at)}"
    extra = {"client": client, "turns": turns, "blocks": list(at), "rows": rows}
    return claims.write(f"baselines-{short}", command, SEEDS, verdicts, extra, folder)


def _beats(rows: Rows, rival: str, client: str, at: tuple[str, ...]) -> list[Claim]:
    """At each block: is DRAG's ST-LPIPS lower than the rival's?"""
    verdicts = []
    for cut in at:
        ours, theirs = f"DRAG, {cut}", f"{METHODS[rival].label}, {cut}"
        if theirs not in rows:
            continue
        verdicts.append(
            gap(
                f"drag-beats-{rival.replace('++', 'pp')}/{client}/{cut.replace(':', '-')}",
                f"On {client} at {cut}, DRAG has a lower ST-LPIPS than {METHODS[rival].label} in the same time",
                rows,
                ours,
                theirs,
                "st_lpips",
                -1,
                source=f"{PAPER}, main comparison",
                notebook="08_baselines",
            )
        )
    return verdicts


def _plus_improves(rows: Rows, client: str, at: tuple[str, ...]) -> list[Claim]:
    """At each block where there is an inverse network: is DRAG++ closer than DRAG in the same time, and than its own start?"""
    verdicts = []
    for cut in at:
        if f"DRAG++, {cut}" not in rows:
            continue
        for id_, rival, statement in (
            (
                "dragpp-improves",
                "DRAG",
                "starting from the inverse network's answer lowers DRAG's ST-LPIPS in the same time",
            ),
            ("dragpp-beats-inverse", "inverse network", "DRAG++ has a lower ST-LPIPS than the answer it starts from"),
        ):
            verdicts.append(
                gap(
                    f"{id_}/{client}/{cut.replace(':', '-')}",
                    f"On {client} at {cut}, {statement}",
                    rows,
                    f"DRAG++, {cut}",
                    f"{rival}, {cut}",
                    "st_lpips",
                    -1,
                    source=f"{PAPER}, DRAG++",
                    notebook="09_dragpp",
                )
            )
    return verdicts
