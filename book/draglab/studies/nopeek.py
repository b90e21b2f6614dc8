"""NoPeek, one component at a time: what its loss does, and what plain fine-tuning does without it."""

from __future__ import annotations

from pathlib import Path

from dragkit import zoo
from draglab.cases import Case
from draglab.studies import defence_study
from draglab.studies.defence_study import AT, OPEN, attacked
from draglab.studies.first_checks import PAPER
from draglab.tables import gap

NOTEBOOK = "13_nopeek"

SHIPPED = "nopeek-vit-imagenette64"

CONTROL = "nopeek-lambda0"


def nopeek(n: int = 32, folder: Path | None = None) -> Path:
    """DRAG on every NoPeek client of this machine, and a freshly trained inverse network where there is one."""
    cases = {OPEN: attacked("", n=n)}
    for client in variants():
        label = client.removeprefix("nopeek-")
        cases[label] = attacked("", n=n, client=client)
        if zoo.available(zoo.inverse_name(client, AT)):
            cases[f"{label}, inverse network"] = Case(None, AT, client=client, n=n)
    rows = defence_study.study("nopeek", cases)
    label = SHIPPED.removeprefix("nopeek-")
    against = [label] + [f"{label}, inverse network"] * (f"{label}, inverse network" in cases)
    verdicts = [
        defence_study.insufficient(
            "nopeek-insufficient",
            "NoPeek",
            rows,
            defence_study.strongest(rows, against),
            source=f"{PAPER}, defences",
            notebook=NOTEBOOK,
        ),
        gap(
            "nopeek-lambda0-control",
            "NoPeek's loss lowers the MS-SSIM of DRAG, against the same fine-tuning without it (lambda = 0)",
            rows,
            label,
            CONTROL.removeprefix("nopeek-"),
            "ms_ssim",
            -1,
            source="dragkit",
            notebook=NOTEBOOK,
        ),
    ]
    return defence_study.write("defence_nopeek", f"--n {n}", verdicts, rows, folder)


def variants() -> list[str]:
    """Names of the NoPeek clients on this machine; the one that is shipped and the control must be there.

    Raises:
        ValueError: one of them is missing; the message says how to train it.
    """
    for name in (SHIPPED, CONTROL):
        if not zoo.available(name):
            raise ValueError(f"client {name!r} has not been trained: dragkit train nopeek --name {name}")
    return zoo.trained("nopeek-", "ViTForImageClassification")
