"""Noise and dropout: how much of the photo, for how much accuracy."""

from __future__ import annotations

from pathlib import Path

from dragkit import zoo
from draglab import accuracy
from draglab.pages.claims import Claim
from draglab.studies import defence_study
from draglab.studies.defence_study import AT, OPEN, attacked
from draglab.tables import Rows, claim

GAUSSIAN = (0.5, 1.0, 2.0, 4.0, 8.0)

LAPLACE = (1.0,)

DROPOUT = (0.25, 0.5, 0.75)

EXPECTED = ("gaussian:4.0", "dropout:0.5")


def noise(n: int = 32, folder: Path | None = None) -> Path:
    """Gaussian and Laplace noise against attackers with and without the likelihood, dropout against who sees the zeros."""
    cases = {OPEN: attacked("", n=n)}
    for kind, strengths, reply in (
        ("gaussian", GAUSSIAN, "likelihood"),
        ("laplace", LAPLACE, "likelihood"),
        ("dropout", DROPOUT, "visible"),
    ):
        for strength in strengths:
            spec = f"{kind}:{strength}"
            cases |= {spec: attacked(spec, n=n), f"{spec}, {reply}": attacked(spec, reply, n=n)}
            if spec in EXPECTED:
                cases[f"{spec}, expectation"] = attacked(spec, "expectation", n=n)
            cases |= defence_study.rebuilt(spec, n=n)
    rows = defence_study.study("noise", cases)
    return defence_study.write("defence_noise", f"--n {n}", [_tradeoff(rows, n)], rows, folder)


def _tradeoff(rows: Rows, n: int) -> Claim:
    """Noise that takes half of the gain from every attacker costs accuracy: how much, at the weakest such level."""
    enough = [
        s for s in GAUSSIAN if all(defence_study.above_half(rows, label).high < 0 for label in _attackers(rows, s))
    ]
    spec = f"gaussian:{enough[0] if enough else GAUSSIAN[-1]}"
    server = defence_study.trained_server(spec)
    plain = accuracy.measured_right(zoo.CLIENT, AT)
    cost = accuracy.accuracy_drop(plain, accuracy.measured_right(server or zoo.CLIENT, AT, spec))
    return claim(
        "noise-tradeoff",
        "Gaussian noise that takes more than half of DRAG's gain in MS-SSIM from every attacker tried costs "
        f"{'even a server that was trained for it' if server else 'the server'} more than two points of accuracy (weakest such "
        f"level of those tested on {n} photos: {spec}; value: accuracy lost on all photos of the validation split)",
        cost,
        len(plain),
        bool(enough) and cost.low > 0.02,
        source="dragkit",
        key="accuracy lost",
        notebook="11_noise",
    )


def _attackers(rows: Rows, strength: float) -> list[str]:
    """Rows of the attackers against this much Gaussian noise."""
    spec = f"gaussian:{strength}"
    return [label for label, row in rows.items() if row.get("defence") == spec and row["server"] == row["client"]]
