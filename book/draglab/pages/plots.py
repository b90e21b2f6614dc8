"""The book's figures: rows of photos, curves, intervals and maps, all in one style that a phone can show.

Every function returns a `matplotlib.figure.Figure` that nothing else holds: a notebook shows it once, as the last expression
of a cell. Photos are drawn on whole multiples of their pixels and never smoothed: their pixels are the evidence.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from dragkit.images import validate_images
from draglab.pages.labels import FONT, SMALL, _levels, _name_points

DPI = 130

WIDTH = 754  # pixels: a column of the book; a phone halves it, so the fonts are large

COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#7b5ea7",
    "#6b6b6b",
    "#8a5a00",
    "#c2578f",
)  # after Okabe and Ito, without the yellow, which fades on white

DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)))

MARKERS = ("o", "s", "^", "D", "v", "P", "X")

STYLE: dict[Any, Any] = {  # the stubs want every key as a literal
    "figure.facecolor": "white",
    "font.size": FONT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "lines.linewidth": 2.0,
    "legend.frameon": False,
}

Line = Sequence[float] | np.ndarray | Tensor

Interval = tuple[float, float, float]


# -- photos ----------------------------------------------------------------------------------------------------------


def image_rows(
    rows: Mapping[str, Tensor],
    columns: Sequence[str] = (),
    captions: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """Photos in labelled rows: one row per method, one column per photo.

    Args:
        rows: label -> images `(n, 3, H, W)`, one size for all; values outside [0, 1] are clamped. "" is no label.
        columns: a heading for every column, or none.
        captions: label of a row -> a short text under each of its photos.

    Raises:
        ValueError: no rows, sizes that differ, more headings or captions than photos, not images.
    """
    pixels = {label: to_pixels(images, f"rows[{label!r}]") for label, images in rows.items()}
    if not pixels:
        raise ValueError("rows is empty; give at least one row of images")
    captions = captions or {}
    shapes = {images.shape[1:3] for images in pixels.values()}
    count = max(len(images) for images in pixels.values())
    if len(shapes) > 1:
        raise ValueError(f"rows has images of several sizes, {sorted(shapes)}; resize them to one")
    if len(columns) not in (0, count):
        raise ValueError(f"columns has {len(columns)} headings; the longest row has {count} images")
    for label, texts in captions.items():
        if label not in pixels or len(texts) != len(pixels[label]):
            raise ValueError(f"captions[{label!r}] has {len(texts)} texts; rows has {list(pixels)}")
    side_y, side_x = shapes.pop()
    sheet = _Sheet(count, side_y, side_x, any(pixels), bool(columns), sum(map(bool, captions.values())), len(pixels))
    top = sheet.head
    for label, images in pixels.items():
        sheet.text(0, top + sheet.panel_y / 2, _wrapped(label), ha="left", va="center")
        for i, image in enumerate(images):
            sheet.photo(i, top, image)
            if label in captions:
                sheet.text(sheet.middle(i), top + sheet.panel_y + 4, captions[label][i], va="top", small=True)
        top += sheet.panel_y + sheet.gap + (sheet.line if label in captions else 0)
    for i, heading in enumerate(columns):
        sheet.text(sheet.middle(i), sheet.head - 6, heading, va="bottom", small=count > 3)
    return sheet.figure


def by_photo(batches: Iterable[Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Rows for `image_rows`, one per photo: name -> that photo of every batch `(B, 3, H, W)`."""
    kinds = list(batches)
    return {name: torch.stack([images[i] for images in kinds]) for i, name in enumerate(names)}


def image_grid(images: Tensor, columns: int = 4, labels: Sequence[str] = ()) -> Figure:
    """Photos `(B, 3, H, W)` in rows of `columns`, each with its label underneath.

    Raises:
        ValueError: not images, no columns, or labels for some of the images only.
    """
    pixels = to_pixels(images, "images")
    if columns < 1:
        raise ValueError(f"columns is {columns}; it must be at least 1")
    if len(labels) not in (0, len(pixels)):
        raise ValueError(f"labels has {len(labels)} texts; there are {len(pixels)} images")
    columns = min(columns, len(pixels))
    count = -(-len(pixels) // columns)
    height, width = pixels.shape[1:3]
    sheet = _Sheet(columns, height, width, False, False, count if labels else 0, count)
    step = sheet.panel_y + sheet.gap + (sheet.line if labels else 0)
    for i, image in enumerate(pixels):
        row, column = divmod(i, columns)
        sheet.photo(column, row * step, image)
        if labels:
            sheet.text(sheet.middle(column), row * step + sheet.panel_y + 4, labels[i], va="top", small=True)
    return sheet.figure


class _Sheet:
    """A page measured in pixels, y downwards, on which photos sit on whole pixels."""

    def __init__(
        self, columns: int, height: int, width: int, labelled: bool, headed: bool, captioned: int, rows: int
    ) -> None:
        gutter = 0.2 if labelled else 0.0
        zoom = max(2, math.ceil(WIDTH * (1 - gutter) / columns / width - 0.2))
        zoom = min(zoom, max(2, round(256 / width)))
        self.panel_x, self.panel_y = width * zoom, height * zoom
        self.gap = max(6, self.panel_x // 24)
        photos = columns * (self.panel_x + self.gap) - self.gap
        total = max(WIDTH, round(photos / (1 - gutter)))
        self.scale = total / WIDTH
        self.line = round(24 * self.scale)
        self.head = round(28 * self.scale) if headed else 0
        self.left = total - photos if labelled else (total - photos) // 2
        down = self.head + rows * (self.panel_y + self.gap) + captioned * self.line
        self.size = (total, down)
        with plt.rc_context(STYLE):
            self.figure = _figure(total, down)

    def middle(self, column: int) -> float:
        return self.left + column * (self.panel_x + self.gap) + self.panel_x / 2

    def photo(self, column: int, top: float, image: np.ndarray) -> None:
        total, down = self.size
        x, y = self.left + column * (self.panel_x + self.gap), down - top - self.panel_y
        axes = self.figure.add_axes((x / total, y / down, self.panel_x / total, self.panel_y / down))
        axes.imshow(image, interpolation="nearest", aspect="auto")
        axes.set_axis_off()

    def text(
        self, x: float, y: float, text: str, *, ha: str = "center", va: str = "center", small: bool = False
    ) -> None:
        total, down = self.size
        size = (SMALL if small else FONT) * self.scale
        self.figure.text(x / total, 1 - y / down, text, fontsize=size, ha=ha, va=va, color="#222222")


def _wrapped(label: str) -> str:
    """The label in lines short enough for the gutter."""
    return textwrap.fill(label, 10, break_long_words=False)


def to_pixels(images: Tensor, name: str) -> np.ndarray:
    """Images `(B, 3, H, W)`, clamped to [0, 1], as uint8 `(B, H, W, 3)`. Raises what `validate_images` raises."""
    clamped = images.detach().float().cpu().clamp(0, 1) if isinstance(images, Tensor) else images
    validate_images(clamped, name)
    return (clamped * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


# -- numbers ---------------------------------------------------------------------------------------------------------


def curves(
    lines: Mapping[str, Line],
    x: Line | None = None,
    *,
    xlabel: str,
    ylabel: str,
    bands: Mapping[str, tuple[Line, Line]] | None = None,
    levels: Mapping[str, float] | None = None,
    log: bool = False,
    log_x: bool = False,
    points: bool = False,
) -> Figure:
    """Curves over one x axis, told apart by colour and dash, with the legend above them.

    Args:
        lines: label -> values. x: their common positions; 0, 1, 2, ... when None.
        bands: label of a line -> its (low, high), drawn as a shade.
        levels: label -> height of a thin horizontal line, such as a floor or a ceiling.
        log: logarithmic y axis. log_x: logarithmic x axis, with a tick at every position. points: mark the measured points.

    Raises:
        ValueError: no lines, or more than there are colours, lengths that differ, a band without a line.
    """
    values = {label: _numbers(line) for label, line in lines.items()}
    if not values:
        raise ValueError("lines is empty; give at least one curve")
    if len(values) > len(COLOURS):
        raise ValueError(f"lines has {len(values)} curves; more than {len(COLOURS)} cannot be told apart")
    bands, levels = bands or {}, levels or {}
    across = _numbers(x) if x is not None else np.arange(len(next(iter(values.values()))))
    for label, line in values.items():
        if len(line) != len(across):
            raise ValueError(f"lines[{label!r}] has {len(line)} values; x has {len(across)}")
    if not set(bands) <= set(values):
        raise ValueError(f"bands has {sorted(set(bands) - set(values))}; lines has {list(values)}")
    with plt.rc_context(STYLE):
        figure = _figure(WIDTH, 430)
        axes = figure.add_subplot()
        for i, (label, line) in enumerate(values.items()):
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)] if points else None
            axes.plot(across, line, color=colour, linestyle=DASHES[i % len(DASHES)], marker=marker, label=label)
            if label in bands:
                low, high = map(_numbers, bands[label])
                axes.fill_between(across, low, high, color=colour, alpha=0.18, linewidth=0)
        if log_x:
            axes.set_xscale("log")
            axes.set_xticks(across, [f"{position:,g}" for position in across])
            axes.minorticks_off()
        elif (across == across.round()).all():
            whole = MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True)  # there is no turn 1.5
            axes.xaxis.set_major_locator(whole)
        if log:
            axes.set_yscale("log")
        between = np.linspace(across.min(), across.max(), 60)  # the lines count, not only their points
        drawn = [
            (x, y) for line in values.values() for x, y in zip(between, np.interp(between, across, line), strict=True)
        ]
        _levels(axes, levels, drawn)
        _finish(figure, axes, xlabel, ylabel, legend=len(values) > 1)
    return figure


def over_budgets(
    spent: Mapping[str, Sequence[Line]], *, ylabel: str, levels: Mapping[str, float], log_x: bool = False
) -> Figure:
    """`curves` of what `draglab.pages.pages.by_turns` gives: label -> (turns, means, lows, highs), all over the same turns."""
    return curves(
        {label: means for label, (_, means, _, _) in spent.items()},
        next(iter(spent.values()))[0],
        xlabel="budget (turns of DRAG)",
        ylabel=ylabel,
        bands={label: (lows, highs) for label, (_, _, lows, highs) in spent.items()},
        levels=levels,
        log_x=log_x,
        points=True,
    )


def intervals(values: Mapping[str, Interval | float], xlabel: str, *, log: bool = False) -> Figure:
    """One line per label: a dot at the value and a bar over its interval.

    Args:
        values: label -> (value, low, high), or a number alone where there is no interval.

    Raises:
        ValueError: nothing to draw.
    """
    if not values:
        raise ValueError("values is empty; give at least one")
    with plt.rc_context(STYLE):
        figure = _figure(WIDTH, 110 + 46 * len(values))
        axes = figure.add_subplot()
        for i, value in enumerate(values.values()):
            middle, low, high = value if isinstance(value, tuple) else (value, value, value)
            axes.plot([low, high], [i, i], color=COLOURS[0], linewidth=3, solid_capstyle="butt")
            axes.plot(middle, i, "o", color=COLOURS[0], markersize=8)
        axes.set_yticks(range(len(values)), list(values))
        axes.set_ylim(len(values) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        if log:
            axes.set_xscale("log")
        _finish(figure, axes, xlabel, "", legend=False)
    return figure


def plane(
    points: Mapping[str, Tensor],
    *,
    radius: float,
    band: float = 0.0,
    names: Mapping[str, Sequence[str]] | None = None,
    joined: Sequence[str] = (),
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Points of a plane beside a circle around its origin, both axes to one scale: where steps land, seen from their start.

    Args:
        points: label -> points `(n, 2)`; each label has a colour and a marker of its own.
        radius: of the circle. band: half the width of the shade around it.
        names: label -> a short text beside each of its points.
        joined: labels whose points are connected by a thin line, in order.

    Raises:
        ValueError: no points, not two columns, a radius that is not positive, names or lines for points that are not there.
    """
    clouds = {label: _numbers(values) for label, values in points.items()}
    if not clouds or any(values.ndim != 2 or values.shape[1] != 2 for values in clouds.values()):
        raise ValueError(f"points must hold tensors (n, 2), got {[np.shape(values) for values in clouds.values()]}")
    if radius <= 0:
        raise ValueError(f"radius is {radius}; it must be positive")
    if not set(joined) <= set(clouds):
        raise ValueError(f"joined has {sorted(set(joined) - set(clouds))}; points has {list(clouds)}")
    names = names or {}
    for label, texts in names.items():
        if label not in clouds or len(texts) != len(clouds[label]):
            raise ValueError(f"names[{label!r}] has {len(texts)} texts; points has {list(clouds)}")
    around = np.linspace(0, 2 * np.pi, 721)
    with plt.rc_context(STYLE):
        figure = _figure(WIDTH, 640)
        axes = figure.add_subplot()
        axes.plot(radius * np.cos(around), radius * np.sin(around), color="#6b6b6b", linewidth=1.2)
        if band:
            inner, outer = radius - band, radius + band
            ring = [np.concatenate([outer * f(around), inner * f(around[::-1])]) for f in (np.cos, np.sin)]
            axes.fill(*ring, color="#6b6b6b", alpha=0.2, linewidth=0)
        axes.plot(0, 0, "+", color="#444444", markersize=12)
        for i, (label, values) in enumerate(clouds.items()):
            line = DASHES[2] if label in joined else ""
            look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
            axes.plot(*values.T, linestyle=line, linewidth=1.2, markersize=8, label=label, **look)
            for at, text in zip(values, names.get(label, []), strict=False):
                outside = np.hypot(*at) > 1.01 * radius  # names keep off the circle, each on its point's side
                place: dict[str, Any] = {"xytext": (7, 4) if outside else (-7, -5), "textcoords": "offset points"}
                place |= {"ha": "left", "va": "bottom"} if outside else {"ha": "right", "va": "top"}
                axes.annotate(text, tuple(at), fontsize=SMALL, color=look["color"], **place)
        everything = np.concatenate([np.zeros((1, 2)), *clouds.values()])
        margin = 0.15 * radius
        axes.set_xlim(everything[:, 0].min() - margin, max(everything[:, 0].max(), radius) + margin)
        axes.set_ylim(everything[:, 1].min() - margin, max(everything[:, 1].max(), radius) + margin)
        axes.set_aspect("equal")
        _finish(figure, axes, xlabel, ylabel, legend=True)
    return figure


def tradeoff(
    points: Mapping[str, Sequence[tuple[Interval, Interval, str]]],
    xlabel: str,
    ylabel: str,
    levels: Mapping[str, float] | None = None,
    *,
    joined: Sequence[str] = (),
    limits: tuple[tuple[float, float], tuple[float, float]] | None = None,
) -> Figure:
    """Two measured quantities against each other: a point with a bar in both directions and a small text each.

    Args:
        points: series -> its points: x (value, low, high), y (value, low, high), text; "" is no text.
        levels: label -> height of a thin horizontal line, such as a floor or a ceiling.
        joined: series whose points are connected by a line, in the order of x.
        limits: ranges of x and y, to compare figures; what is drawn when None.

    Raises:
        ValueError: no points, a value outside its interval, a line for a series that is not there.
    """
    if not any(points.values()):
        raise ValueError("points is empty; give at least one point")
    if not set(joined) <= set(points):
        raise ValueError(f"joined has {sorted(set(joined) - set(points))}; points has {list(points)}")
    for label, series in points.items():
        for x, y, text in series:
            if not all(low <= value <= high for value, low, high in (x, y)):
                raise ValueError(f"points[{label!r}] has {text!r} at {x}, {y}; each must be (value, low, high)")
    with plt.rc_context(STYLE):
        figure = _figure(WIDTH, 560)
        axes = figure.add_subplot()
        texts: list[tuple[tuple[float, float], str, str]] = []
        for i, (label, series) in enumerate(points.items()):
            look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
            ordered = sorted(series, key=lambda point: point[0][0])
            for x, y, text in ordered:
                axes.plot(x[1:], [y[0]] * 2, color=look["color"], linewidth=1.5, alpha=0.6)
                axes.plot([x[0]] * 2, y[1:], color=look["color"], linewidth=1.5, alpha=0.6)
                texts.append(((x[0], y[0]), text, look["color"]))
            line = DASHES[i % len(DASHES)] if label in joined else ""
            middles = [[point[axis][0] for point in ordered] for axis in (0, 1)]
            axes.plot(*middles, linestyle=line, linewidth=1.4, markersize=7, label=label, **look)
        if limits:
            axes.set(xlim=limits[0], ylim=limits[1])
        _levels(axes, levels or {}, [at for at, _, _ in texts])
        _finish(figure, axes, xlabel, ylabel, legend=len(points) > 1)
        _name_points(figure, axes, texts)
    return figure


def heat_maps(maps: Mapping[str, Tensor], label: str, *, columns: int = 4, vmax: float | None = None) -> Figure:
    """Maps `(h, w)` side by side on one colour scale that begins at 0 or, if there are negative values, is symmetric.

    Args:
        maps: title -> map; a title may have several lines. label: what the colour means.
        vmax: end of the scale; the largest absolute value when None.

    Raises:
        ValueError: no maps, or not two axes.
    """
    arrays = {title: values.detach().float().cpu().numpy() for title, values in maps.items()}
    if not arrays or any(a.ndim != 2 for a in arrays.values()):
        raise ValueError(f"maps must hold tensors (h, w), got {[tuple(m.shape) for m in maps.values()]}")
    top = vmax if vmax is not None else max(float(np.abs(a).max()) for a in arrays.values()) or 1.0
    signed = min(float(a.min()) for a in arrays.values()) < 0
    scale: dict[str, Any] = {"cmap": "RdBu_r" if signed else "viridis", "vmin": -top if signed else 0.0, "vmax": top}
    columns = min(columns, len(arrays))
    rows = -(-len(arrays) // columns)
    lines = 1 + max(title.count("\n") for title in arrays)
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure = _figure(WIDTH, 20 + rows * (WIDTH * 0.8 / columns + 24 * lines))
        figure.set_layout_engine("constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, (title, values) in zip(grid.flat, arrays.items(), strict=False):
            drawn = axes.imshow(values, interpolation="nearest", **scale)
            axes.set_title(title, fontsize=SMALL if columns > 2 else FONT)
        bar = figure.colorbar(drawn, ax=grid, fraction=0.04, shrink=0.9, pad=0.02)
        bar.set_label(label, fontsize=SMALL)
        bar.ax.tick_params(labelsize=SMALL)
    return figure


def _figure(width: float, height: float) -> Figure:
    """An empty figure of so many pixels that pyplot does not keep: a cell shows it once, as its value."""
    figure = plt.figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="none")
    plt.close(figure)
    return figure


def _finish(figure: Figure, axes: Axes, xlabel: str, ylabel: str, legend: bool) -> None:
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if legend:
        labels = axes.get_legend_handles_labels()[1]
        columns = len(labels) if sum(map(len, labels)) <= 42 and len(labels) <= 3 else 2
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, borderaxespad=0.2, fontsize=SMALL + 0.5)
    figure.set_layout_engine("constrained")


def _numbers(values: Line) -> np.ndarray:
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
