"""Accuracy of the embedded clients on Imagenette: with a defence, from the store, and at an equal cost.

Every figure is over the same photos with one random stream per photo, so defences are compared photo by photo. The undefended IRs
are cached, and a defence costs the server half of the network only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dragkit import cache, data, zoo
from dragkit.cache import digest, load_or_make, remember, weights_digest
from dragkit.client import SplitClient
from dragkit.defenses import BaseDefence, Defence, make, parse_spec
from dragkit.measures import utility
from dragkit.measures.intervals import Interval, rate
from dragkit.measures.utility import accuracy_drop

FORMAT = 1  # of the stored results; raise it when the code changes what a defence does

ATTACKED = 32  # validation photos on which the attacks are measured: no strength is chosen on them


@torch.no_grad()
def per_photo_right(
    client: SplitClient,
    defence: BaseDefence | None = None,
    *,
    server: SplitClient | None = None,
    indices: Sequence[int] | None = None,
    seed: int = 0,
    subset: data.Subset = "val",
    batch: int = 128,
) -> Tensor:
    """Whether the server names the right class of photos of Imagenette, bool `(n,)`, one entry per photo.

    Args:
        client: sends the messages; its own server half answers when `server` is None.
        defence: what happens to them; None for nothing.
        server: a client cut at the same place, trained for the defence, whose server half answers.
        indices: photos of the subset; all when None. Photo i has the random stream `seed + i`, whatever else is measured.
        seed: of photo 0.
        subset: "train" or "val".
        batch: photos per pass.

    Raises:
        ValueError: a server that does not answer with scores of the ten classes.
    """
    photos, labels = data.imagenette(subset)
    chosen = list(range(len(labels))) if indices is None else list(indices)
    seeds = [seed + i for i in chosen]
    if defence is None or isinstance(defence, Defence):
        h = features(client, subset)[chosen]
        _check_classes(server or client, h[:1])
        return utility.per_ir_right(client, h, labels[chosen], defence, server=server, seeds=seeds, batch=batch)
    images = photos[chosen].float() / 255
    return utility.per_photo_right(client, images, labels[chosen], defence, server=server, seeds=seeds, batch=batch)


def _check_classes(client: SplitClient, h: Tensor) -> None:
    scores = client.server(h.float().to(client.device))
    if scores.shape != (1, len(data.CLASSES)):
        raise ValueError(
            f"client is {client.name}; its server answers {tuple(scores.shape[1:])}, not scores of the "
            f"{len(data.CLASSES)} classes"
        )


def features(client: SplitClient, subset: data.Subset = "val") -> Tensor:
    """Undefended IRs of a whole subset, half precision `(n, *client.h_shape)`, from the cache where they are there.

    Raises:
        ValueError: an IR that half precision cannot hold.
    """
    photos = data.imagenette(subset)[0]
    key = digest(client.at, weights_digest(client.model), photos)
    file = cache.cache_dir() / "features" / f"ir-{key[:24]}.safetensors"

    def work() -> dict[str, Tensor]:
        with torch.no_grad(), torch.autocast(client.device.type, enabled=False):
            h = torch.cat([client(x.to(client.device).float() / 255).half().cpu() for x in photos.split(128)])
        if not h.isfinite().all():
            raise ValueError(f"the IR of {client.name} at {client.at} is too large for half precision")
        return {"h": h}

    return load_or_make(file, work)["h"]


# -- results that are computed once ------------------------------------------------------------------------------------


def measured_right(
    client: str, at: str, defence: str = "", server: str = "", *, seed: int = 0, store: Path | None = None
) -> Tensor:
    """`per_photo_right` of the whole validation subset, from the store where it is there.

    Args:
        client: name in the zoo.
        at: the cut.
        defence: its spec, "" for none.
        server: zoo name of the ViT whose server half answers; the client's own when "".

    Raises:
        ValueError: unknown name, defence or cut, or a server that was trained for another client.
    """
    if defence:
        parse_spec(defence)
    spec: dict[str, Any] = {
        "format": ["utility", FORMAT],
        "client": client,
        "at": at,
        "defence": defence,
        "server": server or client,
        "seed": seed,
        "weights": {name: zoo.card(name)["sha256"] for name in {client, server or client}},
    }

    def work() -> dict[str, Tensor]:
        sender = zoo.load_client(client, at)
        acting = make(defence, sender) if defence else None
        other = zoo.load_client(server, at) if server and server != client else None
        if other is not None and not same_client(sender, other):
            raise ValueError(f"server is {server!r}, whose client half at {at} is not that of {client!r}")
        return {"right": per_photo_right(sender, acting, server=other, seed=seed)}

    return remember(store or cache.cache_dir() / "results", spec, work)["right"]


def measured_accuracy(client: str, at: str, defence: str = "", server: str = "", *, seed: int = 0) -> Interval:
    """Accuracy on the whole validation subset, from the store where it is there. Arguments as in `measured_right`."""
    return rate(measured_right(client, at, defence, server, seed=seed))


@torch.no_grad()
def same_client(a: SplitClient, b: SplitClient) -> bool:
    """Whether two clients send the same messages, tried on four random images."""
    x = torch.rand(4, 3, *a.image_size, generator=torch.Generator().manual_seed(0)).to(a.device)
    return a.h_shape == b.h_shape and torch.equal(a(x), b(x))


# -- equal cost --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Calibration:
    """The strength at which a defence costs what was asked for.

    Attributes:
        strength: of the defence.
        chosen_on: accuracy there on the photos it was chosen on.
        plain, defended: accuracy without and with the defence on the other half of the photos.
        lost: their paired difference.
    """

    strength: float
    chosen_on: Interval
    plain: Interval
    defended: Interval
    lost: Interval


def halves(attacked: int = ATTACKED) -> tuple[list[int], list[int]]:
    """Validation photos to choose a strength on (every second one, without the attacked ones), and those to report on."""
    n = len(data.imagenette("val")[1])
    kept = set(data.pick("val", min(attacked, n), seed=0)[2])
    return [i for i in range(0, n, 2) if i not in kept], list(range(1, n, 2))


def calibrate(
    make_defence: Callable[[float], BaseDefence],
    client: SplitClient,
    drop: float,
    between: tuple[float, float],
    *,
    steps: int = 8,
    seed: int = 0,
    server: SplitClient | None = None,
) -> Calibration:
    """The strongest defence, within the accuracy of the search, that costs at most `drop` of the accuracy.

    Args:
        make_defence: strength to defence.
        client: sends the messages.
        drop: accuracy that may be lost, e.g. 0.02 for two points.
        between: weakest and strongest strength; stronger must cost more.
        steps: halvings of the range.
        seed: of the random streams, see `per_photo_right`.
        server: as in `per_photo_right`.

    Raises:
        ValueError: the weakest costs more than `drop`, or the strongest does not; drop out of (0, 1).
    """
    if not 0 < drop < 1:
        raise ValueError(f"drop is {drop}; it is the accuracy that may be lost, in (0, 1), e.g. 0.02")
    fit, report = halves()
    target = rate(per_photo_right(client, indices=fit)).mean - drop

    def on_fit(strength: float) -> Interval:
        return rate(per_photo_right(client, make_defence(strength), server=server, indices=fit, seed=seed))

    strength = last_above(lambda value: on_fit(value).mean, target, *between, steps)
    plain = per_photo_right(client, indices=report)
    defended = per_photo_right(client, make_defence(strength), server=server, indices=report, seed=seed)
    return Calibration(strength, on_fit(strength), rate(plain), rate(defended), accuracy_drop(plain, defended))


def last_above(value: Callable[[float], float], target: float, low: float, high: float, steps: int) -> float:
    """Where a function that falls from `low` to `high` is last seen at or above `target`, by bisection.

    Where the function is not quite monotone, one of its crossings is found; what is returned did reach the target.

    Raises:
        ValueError: the target is not between the values at the two ends.
    """
    if not low < high or steps < 1:
        raise ValueError(f"low is {low}, high {high} and steps {steps}; low must be below high and steps at least 1")
    ends = value(low), value(high)
    if not ends[0] >= target > ends[1]:
        raise ValueError(
            f"target is {target:.4f}, but the value is {ends[0]:.4f} at {low} and {ends[1]:.4f} at {high}; widen the range"
        )
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if value(middle) >= target else (low, middle)
    return low
