"""What a defence costs: how often the server is still right about the photos of the validation split.

Every figure is over the same photos with one random stream per photo, so defences are compared photo by photo (`accuracy_drop`).
The undefended IRs are cached, and a defence costs the server half of the network only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dragkit import cache, data, zoo
from dragkit.cache import load_or_make, remember, weights_digest
from dragkit.client import SplitClient
from dragkit.defenses import Defence, check_recipe, defend, defend_images, make
from dragkit.defenses.stochastic import HiddenParts
from dragkit.measures.intervals import Interval, paired_difference
from dragkit.measures.probe import rate

FORMAT = 1  # of the stored results; raise it when the code changes what a defence does

ATTACKED = 32  # validation photos on which the attacks are measured: no strength is chosen on them


@torch.no_grad()
def per_photo_right(
    client: SplitClient,
    defence: Defence | None = None,
    *,
    server: SplitClient | None = None,
    indices: Sequence[int] | None = None,
    seed: int = 0,
    split: str = "val",
    batch: int = 128,
) -> Tensor:
    """Whether the server names the right class, bool `(n,)`, one entry per photo.

    Args:
        client: sends the messages; its own server half answers when `server` is None.
        defence: what it does to them; None for nothing.
        server: a client cut at the same place, trained for the defence, whose server half answers.
        indices: photos of the split; all when None. Photo i has the random stream `seed + i`, whatever else is measured.

    Raises:
        ValueError: a server that does not answer with scores of the ten classes.
    """
    labels = data.imagenette(split)[1]
    chosen = list(range(len(labels))) if indices is None else list(indices)
    receive, right = _receiver(client, defence, seed, split), []
    for part in (chosen[i : i + batch] for i in range(0, len(chosen), batch)):
        received = receive(part)
        scores = (server or client).server(received)
        if scores.shape != (len(part), len(data.CLASSES)):
            raise ValueError(
                f"client is {client.name}; its server answers {tuple(scores.shape[1:])}, not scores of the "
                f"{len(data.CLASSES)} classes"
            )
        right.append(scores.argmax(1).cpu() == labels[part])
    return torch.cat(right)


def _receiver(client: SplitClient, defence: Defence | None, seed: int, split: str) -> Callable[[list[int]], Tensor]:
    """Indices of photos to what the server works with: from cached IRs, or from photos where chance acts inside the client."""
    if isinstance(defence, HiddenParts):
        photos = data.imagenette(split)[0]

        def encode(part: list[int]) -> Tensor:
            x = photos[part].to(client.device).float() / 255
            return defence.receive(defend_images(defence, client, x, [seed + i for i in part])[0])

        return encode
    h = features(client, split)

    def send(part: list[int]) -> Tensor:
        sent = h[part].float().to(client.device)
        return sent if defence is None else defence.receive(defend(defence, sent, [seed + i for i in part])[0])

    return send


def accuracy(
    client: SplitClient,
    defence: Defence | None = None,
    *,
    server: SplitClient | None = None,
    indices: Sequence[int] | None = None,
    seed: int = 0,
    split: str = "val",
) -> Interval:
    """Share of the photos about which the server is right, with Wilson's interval. Arguments as in `per_photo_right`."""
    return rate(per_photo_right(client, defence, server=server, indices=indices, seed=seed, split=split))


def accuracy_drop(plain: Tensor, defended: Tensor) -> Interval:
    """Accuracy lost, with the interval of paired differences; both bool `(n,)`, the same photos in the same order."""
    return paired_difference(plain.double(), defended.double())


def features(client: SplitClient, split: str = "val") -> Tensor:
    """Undefended IRs of a whole split, half precision `(n, *client.h_shape)`, from `data.cache_dir()` where they are there.

    Raises:
        ValueError: an IR that half precision cannot hold.
    """
    photos = data.imagenette(split)[0]
    content = hashlib.sha256(f"{client.split} {weights_digest(client.model)}".encode())
    content.update(photos.numpy().tobytes())
    file = cache.cache_dir() / "features" / f"ir-{content.hexdigest()[:24]}.safetensors"

    def work() -> dict[str, Tensor]:
        with torch.no_grad(), torch.autocast(client.device.type, enabled=False):
            h = torch.cat([client(x.to(client.device).float() / 255).half().cpu() for x in photos.split(128)])
        if not h.isfinite().all():
            raise ValueError(f"the IR of {client.name} at {client.split} is too large for half precision")
        return {"h": h}

    return load_or_make(file, work)["h"]


# -- results that are computed once ------------------------------------------------------------------------------------


def measured_right(
    client: str, at: str, recipe: str = "", server: str = "", *, seed: int = 0, store: Path | None = None
) -> Tensor:
    """`per_photo_right` of the whole validation split, from the store where it is there.

    Args:
        client: name in the zoo. at: split point. recipe: of the defence, "" for none.
        server: zoo name of the ViT whose server half answers; the client's own when "".

    Raises:
        ValueError: unknown name, recipe or cut, or a server that was trained for another client.
    """
    if recipe:
        check_recipe(recipe)
    spec: dict[str, Any] = {
        "format": ["utility", FORMAT],
        "client": client,
        "at": at,
        "defence": recipe,
        "server": server or client,
        "seed": seed,
        "weights": {name: zoo.card(name)["sha256"] for name in {client, server or client}},
    }

    def work() -> dict[str, Tensor]:
        sender = zoo.load_client(client, at)
        defence = make(recipe, sender) if recipe else None
        other = zoo.load_client(server, at) if server and server != client else None
        if other is not None and not same_client(sender, other):
            raise ValueError(f"server is {server!r}, whose client half at {at} is not that of {client!r}")
        return {"right": per_photo_right(sender, defence, server=other, seed=seed)}

    return remember(store or cache.cache_dir() / "results", spec, work)["right"]


def measured_accuracy(client: str, at: str, recipe: str = "", server: str = "", *, seed: int = 0) -> Interval:
    """`accuracy` of the whole validation split, from the store where it is there. Arguments as in `measured_right`."""
    return rate(measured_right(client, at, recipe, server, seed=seed))


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
        strength: what was found. chosen_on: accuracy there on the photos it was chosen on.
        plain, defended: accuracy without and with the defence on the other half of the photos. lost: their paired difference.
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
    make_defence: Callable[[float], Defence],
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
        make_defence: strength to defence. drop: accuracy that may be lost, e.g. 0.02 for two points.
        between: weakest and strongest strength; stronger must cost more. steps: halvings of the range.

    Raises:
        ValueError: the weakest costs more than `drop`, or the strongest does not; drop out of (0, 1).
    """
    if not 0 < drop < 1:
        raise ValueError(f"drop is {drop}; it is the accuracy that may be lost, in (0, 1), e.g. 0.02")
    fit, report = halves()
    target = accuracy(client, indices=fit).mean - drop

    def reached(strength: float) -> float:
        return accuracy(client, make_defence(strength), server=server, indices=fit, seed=seed).mean

    strength = last_above(reached, target, *between, steps)
    chosen = make_defence(strength)
    plain = per_photo_right(client, indices=report)
    defended = per_photo_right(client, chosen, server=server, indices=report, seed=seed)
    on_fit = accuracy(client, chosen, server=server, indices=fit, seed=seed)
    return Calibration(strength, on_fit, rate(plain), rate(defended), accuracy_drop(plain, defended))


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


# -- one photo ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def consequence(client: SplitClient, h: Tensor, received: Tensor) -> str:
    """What the defence changes in the server's answer about one photo, in words.

    Args:
        h: the undefended IR `(1, *client.h_shape)`. received: what the server works with instead (`defence.receive`).
    """
    plain, defended = client.server(h).float(), client.server(received).float()
    names = getattr(getattr(client.model, "config", None), "id2label", {})
    if plain.ndim == 2 and len(names) == plain.shape[1]:
        told = [f"{names[int(y.argmax())]} ({y.softmax(1).max():.0%})" for y in (plain, defended)]
        changed = "unchanged" if plain.argmax() == defended.argmax() else "CHANGED"
        return f"the server's answer: {told[0]} without the defence, {told[1]} with it ({changed})"
    if plain.shape != defended.shape:
        return "the server's output has another shape with the defence"
    likeness = torch.nn.functional.cosine_similarity(plain.flatten(1), defended.flatten(1)).item()
    return f"the server's output with the defence has cosine similarity {likeness:.3f} to the one without"
