"""What the chapters on defences share: the name of the attack, leakage against accuracy, whether an attacker keeps half."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from dragkit.config import DragConfig
from dragkit.measures.intervals import Interval
from dragkit.measures.metrics import LABELS
from dragkit.methods import METHODS
from draglab.pages import plots
from draglab.pages.study import Study
from draglab.studies import defence_study

ATTACK = METHODS["drag"].shown(DragConfig.small(defence_study.TURNS))
"""The attack of the recorded studies of defences, with its settings; its rows are called "DRAG"."""

Series = Mapping[str, Sequence[tuple[str, str]]]
"""Name of a series -> its points: label of a row, and a short text beside the point."""


def against_accuracy(
    study: Study, series: Series, metric: str, levels: Sequence[str] = (defence_study.PRIOR,)
) -> Figure:
    """A metric of the reconstruction over the server's accuracy, with intervals in both directions.

    Args:
        series: what to draw beside the undefended attack; rows that were not recorded are left out.
        levels: reference rows, as horizontal lines.
    """
    chosen = {"undefended": [(defence_study.OPEN, "")], **series}
    points = {}
    for name, labels in chosen.items():
        recorded = [(study.rows[label], text) for label, text in labels if label in study.rows]
        if recorded:
            points[name] = [
                (tuple(row["accuracy"]), (row[metric]["mean"], *row[metric]["ci"]), text) for row, text in recorded
            ]
    heights = {name: study.rows[name][metric]["mean"] for name in levels if name in study.rows}
    return plots.tradeoff(points, "accuracy of the server", LABELS[metric], heights)


def decided(interval: Interval, above: str, below: str) -> str:
    """What an interval says about a difference: above 0, below 0, or "undecided"."""
    return above if interval.low > 0 else below if interval.high < 0 else "undecided"


def keeps_half(study: Study, label: str) -> str:
    """Whether an attacker keeps more than half of the MS-SSIM that the undefended attack gains over the prior alone.

    Returns:
        "yes", "no" or "undecided".
    """
    return decided(defence_study.above_half(study.rows, label), "yes", "no")
