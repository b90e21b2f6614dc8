"""Sending less, or in a secret basis: top-k, low rank, quantised; rotated and permuted features."""

from __future__ import annotations

from pathlib import Path

from draglab.studies import defence_study
from draglab.studies.defence_study import OPEN, attacked

TOPK = (0.25, 0.1)

RANKS = (16, 8)

BITS = (2, 1)

SECRET = ("rotate", "permute")


def transport(n: int = 32, folder: Path | None = None) -> Path:
    """Messages of fewer numbers or bits against the attacker who knows what is missing; secret bases against one who needs none."""
    cases = {OPEN: attacked("", n=n)}
    for share in TOPK:
        spec = f"topk:{share}"
        cases |= {spec: attacked(spec, n=n), f"{spec}, visible": attacked(spec, "visible", n=n)}
    for rank in RANKS:
        spec = f"lowrank:{rank}"
        cases |= {spec: attacked(spec, n=n), f"{spec}, projected": attacked(spec, "projected", n=n)}
    cases |= {f"quantise:{bits}": attacked(f"quantise:{bits}", n=n) for bits in BITS}
    for spec in SECRET:
        replies = ("", "token gram", "undo") if spec == "rotate" else ("", "undo")
        cases |= {f"{spec}, {r}" if r else spec: attacked(spec, r, n=n) for r in replies}
    rows = defence_study.study("transport", cases)
    verdicts = [
        defence_study.insufficient(
            f"{spec}-insufficient", what, rows, f"{spec}, undo", source="dragkit", notebook="12_tokens"
        )
        for spec, what in zip(SECRET, ("A secret rotation", "A secret order of the features"), strict=True)
    ]
    return defence_study.write("defence_transport", f"--n {n}", verdicts, rows, folder)
