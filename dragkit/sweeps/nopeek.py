"""NoPeek, one component at a time: what its loss does, and what plain fine-tuning does without it."""

from __future__ import annotations

from pathlib import Path

from dragkit import zoo
from dragkit.attacks import InverseConfig
from dragkit.comparison import gap
from dragkit.experiment import Case
from dragkit.measurements import PAPER
from dragkit.sweeps import defended
from dragkit.sweeps.defended import AT, OPEN, attacked

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
            cases[f"{label}, inverse network"] = Case(InverseConfig(), AT, client=client, n=n)
    rows = defended.study("nopeek", cases)
    label = SHIPPED.removeprefix("nopeek-")
    against = [label] + [f"{label}, inverse network"] * (f"{label}, inverse network" in cases)
    made = [
        defended.insufficient(
            "nopeek-insufficient",
            "NoPeek",
            rows,
            defended.strongest(rows, against),
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
    return defended.write("defence_nopeek", f"--n {n}", made, rows, folder)


def variants() -> list[str]:
    """Names of the NoPeek clients on this machine; the one that is shipped and the control must be there.

    Raises:
        ValueError: one of them is missing; the message says how to train it.
    """
    for name in (SHIPPED, CONTROL):
        if not zoo.available(name):
            raise ValueError(f"client {name!r} has not been trained: dragkit train nopeek --name {name}")
    return zoo.trained("nopeek-", "ViTForImageClassification")
