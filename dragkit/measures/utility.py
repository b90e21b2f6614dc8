"""What a defence costs: how often the server is still right about photos whose class is known.

Every photo has a random stream of its own, so defences are compared photo by photo (`accuracy_drop`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dragkit.client import SplitClient
from dragkit.defenses import BaseDefence, defend, defend_images
from dragkit.images import validate_images
from dragkit.measures.intervals import Interval, paired_difference, rate
from dragkit.streams import image_seeds

Receive = Callable[[slice, list[int]], Tensor]
"""Which photos, and their seeds, to what the server works with."""


@torch.no_grad()
def per_photo_right(
    client: SplitClient,
    photos: Tensor,
    labels: Tensor,
    defence: BaseDefence | None = None,
    *,
    server: SplitClient | None = None,
    seeds: int | Sequence[int] = 0,
    batch: int = 128,
) -> Tensor:
    """Whether the server names the right class, one entry per photo.

    Args:
        client: sends the messages; its own server half answers when `server` is None.
        photos: `(n, 3, H, W)` in [0, 1].
        labels: the right classes, integers `(n,)` from 0: the numbers of the server's scores.
        defence: what happens to the messages; None for nothing.
        server: a client cut at the same place, trained for the defence, whose server half answers.
        seeds: of the defence's random streams, one per photo, or a number s for s, s + 1, ...
        batch: photos per pass.

    Returns:
        bool `(n,)`.

    Raises:
        ValueError: photos and labels that do not fit, or a server that does not answer with scores of these classes.
    """
    validate_images(photos, "photos")

    def receive(part: slice, streams: list[int]) -> Tensor:
        x = photos[part].to(client.device)
        return client(x) if defence is None else defence.receive(defend_images(defence, client, x, streams)[0])

    return _right(server or client, receive, labels, image_seeds(seeds, len(photos)), batch)


@torch.no_grad()
def per_ir_right(
    client: SplitClient,
    h: Tensor,
    labels: Tensor,
    defence: BaseDefence | None = None,
    *,
    server: SplitClient | None = None,
    seeds: int | Sequence[int] = 0,
    batch: int = 128,
) -> Tensor:
    """`per_photo_right` from undefended IRs that are at hand, which costs the server half of the network only.

    Args:
        client: made the IRs; its own server half answers when `server` is None.
        h: `(n, *client.h_shape)`; half precision will do to store them.
        labels, defence, server, seeds, batch: as in `per_photo_right`.

    Returns:
        bool `(n,)`.

    Raises:
        TypeError: a defence that acts inside the client.
        ValueError: as `per_photo_right`.
    """

    def receive(part: slice, streams: list[int]) -> Tensor:
        sent = h[part].float().to(client.device)
        return sent if defence is None else defence.receive(defend(defence, sent, streams)[0])

    return _right(server or client, receive, labels, image_seeds(seeds, len(h)), batch)


def _right(server: SplitClient, receive: Receive, labels: Tensor, seeds: list[int], batch: int) -> Tensor:
    if tuple(labels.shape) != (len(seeds),) or labels.is_floating_point() or bool((labels < 0).any()):
        raise ValueError(
            f"labels is {tuple(labels.shape)} of {labels.dtype}; it must be classes, integers ({len(seeds)},)"
        )
    classes, right = int(labels.max()) + 1, []
    for start in range(0, len(seeds), batch):
        part = slice(start, min(start + batch, len(seeds)))
        scores = server.server(receive(part, seeds[part]))
        if scores.ndim != 2 or scores.shape[1] < classes:
            raise ValueError(
                f"client is {server.name}; its server answers {tuple(scores.shape[1:])}, not scores of the {classes} classes"
            )
        right.append(scores.argmax(1).cpu() == labels[part].cpu())
    return torch.cat(right)


def accuracy(
    client: SplitClient,
    photos: Tensor,
    labels: Tensor,
    defence: BaseDefence | None = None,
    *,
    server: SplitClient | None = None,
    seeds: int | Sequence[int] = 0,
) -> Interval:
    """Share of the photos about which the server is right, with Wilson's interval. Arguments as in `per_photo_right`."""
    return rate(per_photo_right(client, photos, labels, defence, server=server, seeds=seeds))


def accuracy_drop(plain: Tensor, defended: Tensor) -> Interval:
    """Accuracy lost, with the interval of paired differences; both bool `(n,)`, the same photos in the same order."""
    return paired_difference(plain.double(), defended.double())


@torch.no_grad()
def consequence(client: SplitClient, h: Tensor, received: Tensor) -> str:
    """What the defence changes in the server's answer about one photo, in words.

    Args:
        client: whose server half answers.
        h: the undefended IR `(1, *client.h_shape)`.
        received: what the server works with instead (`defence.receive`).
    """
    plain, defended = client.server(h).float(), client.server(received).float()
    names = getattr(getattr(client.model, "config", None), "id2label", {})
    if plain.ndim == 2 and len(names) == plain.shape[1]:
        before, after = (f"{names[int(y.argmax())]} ({y.softmax(1).max():.0%})" for y in (plain, defended))
        changed = "unchanged" if plain.argmax() == defended.argmax() else "CHANGED"
        return f"the server's answer: {before} without the defence, {after} with it ({changed})"
    if plain.shape != defended.shape:
        return "the server's output has another shape with the defence"
    likeness = torch.nn.functional.cosine_similarity(plain.flatten(1), defended.flatten(1)).item()
    return f"the server's output with the defence has cosine similarity {likeness:.3f} to the one without"
