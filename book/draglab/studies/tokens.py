"""Shuffled and missing tokens, and attackers who put them back in order or do without order."""

from __future__ import annotations

from pathlib import Path

from draglab.studies import defence_study
from draglab.studies.defence_study import OPEN, attacked
from draglab.studies.first_checks import PAPER
from draglab.tables import gap

NOTEBOOK = "12_tokens"

ORDERS = ("reorder", "placed", "assignment", "gram", "sliced")

AFTER_DROP = ("reorder", "placed", "assignment")  # the replies that also suit a set with gaps

SHARES = (0.25, 0.5, 0.75)


def tokens(n: int = 32, folder: Path | None = None) -> Path:
    """Shuffle, drop and both, with every reply."""
    cases = {OPEN: attacked("", n=n), "shuffle": attacked("shuffle", n=n)}
    cases |= {f"shuffle, {reply}": attacked("shuffle", reply, n=n) for reply in ORDERS}
    for share in SHARES:
        cases |= {f"drop:{share}": attacked(f"drop:{share}", n=n)}
        cases |= {f"drop:{share}, mask": attacked(f"drop:{share}", "mask", n=n)}
    both = "drop:0.5+shuffle"
    for spec in ("shuffle", "drop:0.5", both):
        cases |= defence_study.rebuilt(spec, n=n)
    cases |= {both: attacked(both, n=n)} | {f"{both}, {r}": attacked(both, r, n=n) for r in AFTER_DROP}
    rows = defence_study.study("tokens", cases)
    best = defence_study.strongest(rows, [label for label in cases if label.startswith("shuffle, ")])
    verdicts = [
        gap(
            "shuffle-reorder-recovers",
            f"Against shuffled tokens, an attacker who knows of it ({best}) gets a higher MS-SSIM than one who does not",
            rows,
            best,
            "shuffle",
            "ms_ssim",
            1,
            source=f"{PAPER}, section 5.5",
            notebook=NOTEBOOK,
        ),
        gap(
            "drop-tokens",
            "Leaving out half of the patch tokens lowers the MS-SSIM of an attacker who masks them, against no defence",
            rows,
            "drop:0.5, mask",
            OPEN,
            "ms_ssim",
            -1,
            source=f"{PAPER}, section 5.5",
            notebook=NOTEBOOK,
        ),
        defence_study.insufficient(
            "shuffle-insufficient", "Shuffling", rows, best, source=f"{PAPER}, section 5.5", notebook=NOTEBOOK
        ),
    ]
    return defence_study.write("defence_tokens", f"--n {n}", verdicts, rows, folder)
