"""DISCO, one component at a time, against attackers who know that channels are pruned."""

from __future__ import annotations

from pathlib import Path

from dragkit import zoo
from draglab.studies import defence_study
from draglab.studies.defence_study import OPEN, attacked
from draglab.studies.first_checks import PAPER
from draglab.tables import gap

NOTEBOOK = "14_disco"

SHIPPED = "disco-vit-imagenette64"

REPLIES = ("loud channels", "channelwise")

MASKS = ("disco", "disco-warm", "disco-hard", "disco-static", "disco-random")


def disco(n: int = 32, folder: Path | None = None) -> Path:
    """Every mask on the shipped client, the trained variants with their own mask; three distances each."""
    if not zoo.available(SHIPPED):
        raise ValueError(f"client {SHIPPED!r} has not been trained: dragkit train disco --ship")
    cases = {OPEN: attacked("", n=n), "no mask": attacked("", n=n, client=SHIPPED)}
    for mask in MASKS:
        for reply in ("", *REPLIES):
            cases[f"{mask}, {reply}" if reply else mask] = attacked(mask, reply, n=n, client=SHIPPED)
    for client in zoo.trained("disco-", "ViTForImageClassification"):
        if client != SHIPPED:
            own = "centred" if zoo.card(client)["recipe"]["mask"]["fill"] == "mean" else "channelwise"
            for reply in ("", own):
                label = client.removeprefix("disco-")
                cases[f"{label}, {reply}" if reply else label] = attacked("disco", reply, n=n, client=client)
    cases |= defence_study.rebuilt("disco", n=n, client=SHIPPED)
    rows = defence_study.study("disco", cases)
    tried = [label for label in cases if label.startswith("disco, ")]
    verdicts = [
        defence_study.insufficient(
            "disco-insufficient",
            "DISCO as released (soft mask)",
            rows,
            defence_study.strongest(rows, tried),
            source=f"{PAPER}, defences",
            notebook=NOTEBOOK,
        )
    ]
    verdicts += [
        gap(
            id_,
            f"Against DISCO's soft mask{which}, comparing channel by channel gives DRAG a higher MS-SSIM than comparing token by "
            "token",
            rows,
            f"{mask}, channelwise",
            mask,
            "ms_ssim",
            1,
            source="dragkit",
            notebook=NOTEBOOK,
        )
        for id_, mask, which in (
            ("disco-channelwise-cosine", "disco", ""),
            ("disco-channelwise-cosine-warm", "disco-warm", " at a temperature where no gain underflows"),
        )
    ]
    return defence_study.write("defence_disco", f"--n {n}", verdicts, rows, folder)
