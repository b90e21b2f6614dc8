"""Names beside the points of a figure, where there is room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

FONT, SMALL = 11.0, 9.5  # points, at WIDTH

SIDES = ((5, 4), (5, -4), (-5, 4), (-5, -4), (0, 7), (0, -7), (7, 0), (-7, 0), (5, 14), (5, -14), (-5, 14), (-5, -14))


def _levels(axes: Axes, levels: Mapping[str, float], points: Sequence[tuple[float, float]] = ()) -> None:
    """Thin horizontal lines with their names.

    A name stands at the right end above its line, unless another end or side has fewer points in the way; never between two lines
    that are close, and never outside the axes.
    """
    for height in levels.values():
        axes.axhline(height, color="#6b6b6b", linewidth=1.2, linestyle=(0, (4, 3)))
    edges = [0.0, *(_share(axes, height) for height in levels.values()), 1.0]  # of what names must not run into
    for label, height in levels.items():
        above = [edge - _share(axes, height) for edge in edges]
        places = [(end, side) for side in (1, -1) for end in (1, 0) if not any(0 < side * gap < 0.08 for gap in above)]
        end, side = min(places or [(1, 1)], key=lambda place: _crowd(axes, points, place, height))
        axes.annotate(
            label,
            (end, height),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            xytext=(-2 if end else 2, 3 * side),
            ha="right" if end else "left",
            va="bottom" if side > 0 else "top",
            fontsize=SMALL,
            color="#444444",
        )


def _share(axes: Axes, height: float) -> float:
    """Where a value lies on the y axis, 0 at its lower end and 1 at its upper one."""
    return float(axes.transAxes.inverted().transform(axes.transData.transform((axes.get_xlim()[0], height)))[1])


def _crowd(axes: Axes, points: Sequence[tuple[float, float]], place: tuple[int, int], height: float) -> int:
    """How many points would stand in the name of a level: at the left end (0) or the right one (1), above (1) or below it (-1)."""
    end, side = place
    inside = axes.transAxes.inverted().transform(axes.transData.transform(np.reshape(points, (-1, 2))))
    own = _share(axes, height)
    return sum(abs(x - end) < 0.25 and -0.03 < side * (y - own) < 0.08 for x, y in inside)


def _name_points(figure: Figure, axes: Axes, texts: Sequence[tuple[tuple[float, float], str, str]]) -> None:
    """Texts beside their points, each on the side where it covers least of the others."""
    figure.draw_without_rendering()  # the axes have their final place now
    frame = axes.get_window_extent()
    dots = axes.transData.transform([at for at, _, _ in texts])
    taken = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in dots]
    taken += [text.get_window_extent() for text in axes.texts]
    for at, text, colour in texts:
        if not text:
            continue
        tried: list[tuple[float, int, Annotation, Bbox]] = []
        for dx, dy in SIDES:
            place: dict[str, Any] = {"xytext": (dx, dy), "textcoords": "offset points", "in_layout": False}
            place |= {"ha": ("center", "left", "right")[(dx > 0) - (dx < 0)]}
            place |= {"va": ("center", "bottom", "top")[(dy > 0) - (dy < 0)]}
            label = axes.annotate(text, at, fontsize=SMALL - 1, color=colour, **place)
            box = label.get_window_extent()
            outside = box.width * box.height - _shared(box, frame)
            tried.append((sum(_shared(box, other) for other in taken) + 10 * outside, len(tried), label, box))
        _, best, _, box = min(tried)
        for _, i, label, _ in tried:
            if i != best:
                label.remove()
        taken.append(box)


def _shared(a: Bbox, b: Bbox) -> float:
    """Area that two boxes have in common."""
    both = Bbox.intersection(a, b)
    return both.width * both.height if both else 0.0
