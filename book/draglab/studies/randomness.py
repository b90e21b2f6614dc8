"""Randomness on the client, at equal accuracy: noise of different shapes, dropped tokens, hidden parts, and repeated queries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dragkit import cache, zoo
from dragkit.cache import remember
from dragkit.defenses import make
from draglab import accuracy
from draglab.studies import defence_study
from draglab.studies.defence_study import AT, OPEN, attacked
from draglab.tables import METRICS, Rows, gap, row_of

NOTEBOOK = "15_randomness"

LOST = 0.05  # of the accuracy, for every mechanism

QUERIES = (1, 4, 16)

COMPARED = ("gaussian, 1", "gaussian, 16", "shaped, 1")  # small differences: attacked with several seeds

SEEDS_EACH = 4


class Mechanism(NamedTuple):
    """What is drawn at random: a spec whose strength is chosen, what follows it, the reply, and how many messages are heard."""

    name: str
    between: tuple[float, float]
    then: str
    reply: str
    queries: tuple[int, ...] = QUERIES


MECHANISMS = (
    Mechanism("gaussian", (0.05, 4.0), "", "likelihood"),
    Mechanism("shaped", (0.05, 4.0), "", "likelihood"),
    Mechanism("pac", (0.05, 4.0), "", "likelihood", (1,)),
    Mechanism("drop", (0.01, 0.95), "+shuffle", "reorder"),
    Mechanism("heads", (0.01, 0.95), "", "average"),
)


def randomness(n: int = 32, folder: Path | None = None) -> Path:
    """Every mechanism as strong as the same loss of accuracy allows, against who knows it and hears 1, 4 or 16 messages."""
    strengths = {m.name: strength(m.name, m.between) for m in MECHANISMS}
    cases = {OPEN: attacked("", n=n)}
    for m in MECHANISMS:
        spec = f"{m.name}:{strengths[m.name]}{m.then}"
        cases |= {f"{m.name}{m.then}, {k}": attacked(spec, m.reply, n=n, queries=k) for k in m.queries}
    most = QUERIES[-1]
    cases[f"heads, {most}, instances"] = attacked(f"heads:{strengths['heads']}", "instances", n=n, queries=most)
    again = {
        f"{label}, seed {i}": replace(cases[label], attack_seed=cases[label].attack_seed + i * n)
        for label in COMPARED
        for i in range(1, SEEDS_EACH)
    }
    rows = _over_seeds(defence_study.study("randomness", cases | again))
    verdicts = [
        gap(
            "shaped-noise-beats-isotropic",
            f"At equal accuracy ({LOST:.0%} lost), noise shaped by what leaks and what the server needs leaves an attacker "
            f"who knows it (likelihood, one message, mean of {SEEDS_EACH} attacks) a lower MS-SSIM than isotropic noise",
            rows,
            "shaped, 1",
            "gaussian, 1",
            "ms_ssim",
            -1,
            source="dragkit",
            notebook=NOTEBOOK,
        ),
        gap(
            "queries-undo-noise",
            "An attacker who averages 16 messages of the same photo gets a higher MS-SSIM through isotropic noise than from one "
            f"(mean of {SEEDS_EACH} attacks on each)",
            rows,
            "gaussian, 16",
            "gaussian, 1",
            "ms_ssim",
            1,
            source="dragkit",
            notebook=NOTEBOOK,
        ),
    ]
    return defence_study.write(
        "defence_randomness", f"--n {n}", verdicts, _with_loss(rows), folder, lost=LOST, strengths=strengths
    )


def _over_seeds(rows: Rows) -> Rows:
    """Rows in which every photo has its mean over the seeds; retrieval and distances stay those of the first."""
    for label in COMPARED:
        same = [rows[label], *(rows.pop(f"{label}, seed {i}") for i in range(1, SEEDS_EACH))]
        means = {m: torch.tensor([one["per_photo"][m] for one in same]).mean(0).tolist() for m in METRICS}
        rows[label] |= row_of({m: [round(v, 5) for v in values] for m, values in means.items()}) | {"seeds": SEEDS_EACH}
    return rows


def strength(name: str, between: tuple[float, float]) -> float:
    """The strength at which a mechanism costs `LOST` of the accuracy, chosen on half of the validation photos, not the attacked."""
    weights = zoo.card(zoo.CLIENT)["sha256"]
    spec: dict[str, Any] = {"strength": 1, "name": name, "between": between, "lost": LOST, "at": AT, "weights": weights}

    def work() -> dict[str, Any]:
        client = zoo.load_client(at=AT)
        calibration = accuracy.calibrate(lambda value: make(f"{name}:{value}", client), client, LOST, between)
        return {"strength": torch.tensor(calibration.strength, dtype=torch.float64)}

    return round(float(remember(cache.cache_dir() / "results", spec, work)["strength"]), 4)


def _with_loss(rows: Rows) -> Rows:
    """Rows with the accuracy that each mechanism loses on the whole subset, photo by photo."""
    plain = accuracy.measured_right(zoo.CLIENT, AT)
    for row in rows.values():
        if row.get("defence"):
            row["lost"] = list(accuracy.accuracy_drop(plain, accuracy.measured_right(zoo.CLIENT, AT, row["defence"])))
    return rows
