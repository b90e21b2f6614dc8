"""Several attacks on the same photos, as rows of one table: values per photo, means, intervals, and the reference rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dragkit import cache, zoo
from dragkit.images import grid, save_image
from dragkit.measures import intervals, metrics
from draglab.cases import Case, Result, references, run
from draglab.pages.claims import Claim
from draglab.pages.pages import difference

METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ms_ssim": metrics.ms_ssim,
    "ssim": metrics.ssim,
    "psnr": metrics.psnr,
    "st_lpips": metrics.st_lpips,
}

Rows = dict[str, dict[str, Any]]

TRAINED_FOR = (
    "nopeek-",
    "disco-",
    "server/",
    "inverse/",
    "gan64-encoder/",
)  # names of models for one defence or one cut


def score(images: Tensor, photos: Tensor) -> dict[str, list[float]]:
    """Every metric of every photo."""
    return {name: [round(v, 5) for v in metric(images, photos).tolist()] for name, metric in METRICS.items()}


def row(images: Tensor, photos: Tensor) -> dict[str, Any]:
    """Per-photo values, mean and 95 % interval of every metric."""
    return row_of(score(images, photos))


def row_of(values: dict[str, list[float]]) -> dict[str, Any]:
    """The same from per-photo values of every metric."""
    out: dict[str, Any] = {"per_photo": values}
    for metric, v in values.items():
        mean, low, high = intervals.bootstrap_ci(v)
        out[metric] = {"mean": round(mean, 5), "ci": [round(low, 5), round(high, 5)]}
    return out


def result_row(result: Result) -> dict[str, Any]:
    """`row` of an attack's result, with what it cost and the attacker's own distances."""
    return row(result.images, result.photos) | {
        "seconds_per_photo": round(result.seconds, 3),
        "nfe": result.nfe,
        "made_on": result.made_on,
        "distance": [round(v, 5) for v in result.distance.tolist()],
    }


def compare(name: str, cases: Mapping[str, Case], panel: int = 8) -> tuple[Rows, dict[str, Tensor]]:
    """Run the cases, add the reference rows, save a panel (photos on top) in the cache to look at.

    Returns:
        label -> row, and label -> images; the photos are under "photo" in the latter.
    """
    results = {label: run(case) for label, case in cases.items()}
    first = next(iter(results.values()))
    unattacked = references(first.photos, zoo.load_prior(next(iter(cases.values())).prior))
    rows = {label: result_row(r) for label, r in results.items()}
    rows |= {label: row(images, first.photos) for label, images in unattacked.items()}
    images = {"photo": first.photos, **{label: r.images for label, r in results.items()}, **unattacked}
    shown = torch.cat([i[:panel] for i in images.values()])
    save_image(grid(shown, columns=min(panel, len(first.photos))), cache.cache_dir() / "panels" / f"{name}.png")
    return rows, images


def trained_models(names: list[str]) -> Rows:
    """How those of the models that were trained for a defence or a cut came to be, and what was measured.

    They need not be on every machine.
    """
    cards = {name: zoo.card(name) for name in names if name.startswith(TRAINED_FOR)}
    return {
        name: {key: card[key] for key in ("command", "config", "recipe", "measured")} for name, card in cards.items()
    }


def claim(
    id_: str,
    statement: str,
    interval: intervals.Interval,
    n: int,
    holds: bool,
    *,
    source: str,
    key: str,
    notebook: str,
    unit: str = "",
) -> Claim:
    """A claim from an estimate and its interval, rounded to four digits."""
    value, low, high = (round(v, 4) for v in interval)
    return Claim(id_, statement, source, key, value, low, high, n, unit, bool(holds), notebook)


def gap(
    id_: str, statement: str, rows: Rows, a: str, b: str, metric: str, sign: int, *, source: str, notebook: str
) -> Claim:
    """The claim that `a` scores higher (sign 1) or lower (sign -1) than `b` on the same photos."""
    interval = difference(rows, a, b, metric)
    holds = interval.low > 0 if sign > 0 else interval.high < 0
    n = len(rows[a]["per_photo"][metric])
    return claim(id_, statement, interval, n, holds, source=source, key=f"{metric} difference", notebook=notebook)
