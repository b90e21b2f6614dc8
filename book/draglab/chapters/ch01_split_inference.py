"""Chapter 1, split inference: how large the message is, what depth keeps in it, and what a server makes of shuffled tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchvision.io import encode_jpeg

from dragkit.client import SplitClient
from dragkit.distance import cosine_distance
from draglab.pages import pages
from draglab.pages.study import Line

Spread = tuple[float, float, float]  # mean, smallest, largest


def normalised(client: SplitClient, photos: Tensor) -> Tensor:
    """Photos `(B, 3, H, W)` as the whole model wants them: at its size, with its mean and deviation taken out."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (client.mean, client.std))
    return (client.resize(photos).clamp(0, 1) - mean) / std


def gap_table(gaps: Mapping[str, float]) -> pages.Table:
    """Cut -> largest difference between the logits of the two halves and those of the whole model."""
    return pages.table(["cut", "largest difference in the logits"], [[at, f"{gap:.1e}"] for at, gap in gaps.items()])


def jpeg_bytes(photos: Tensor) -> float:
    """Mean size of the photos `(B, 3, H, W)` as JPEG files of quality 90."""
    pixels = (photos * 255).round().to(torch.uint8)
    return sum(len(encode_jpeg(image, quality=90)) for image in pixels) / len(pixels)


def size_table(cuts: Mapping[str, SplitClient], jpeg: float) -> pages.Table:
    """What a photo of 64 x 64 pixels weighs as a file (`jpeg` bytes), as pixels and as a message of each cut."""
    rows = [["photo as JPEG (quality 90, mean)", "64 x 64 x 3", f"{jpeg:,.0f}", "-"]]
    rows += [["photo as raw pixels", "64 x 64 x 3", f"{64 * 64 * 3:,}", "-"]]
    for at, cut in cuts.items():
        fact = cut.info()
        share = fact["client_parameters"] / (fact["client_parameters"] + fact["server_parameters"])
        shape = " x ".join(map(str, fact["h_shape"]))
        rows.append([f"IR at {at}", shape, f"{fact['bytes_per_query']:,}", f"{share:.0%}"])
    return pages.table(["what is sent", "numbers", "bytes", "weights on the phone"], rows)


def room_in_the_message(client: SplitClient, jpeg: float) -> Line:
    """The message's size in JPEG files of `jpeg` bytes."""
    ratio = client.info()["bytes_per_query"] / jpeg
    return Line(
        f"Here the message is {ratio:.0f} times as large as the photo's JPEG file: room enough to hold the photo."
    )


@torch.no_grad()
def reactions(cut: SplitClient, photos: Tensor, copies: Mapping[str, Tensor]) -> dict[str, Spread]:
    """How far a photo's IR lies from those of the other photos, and of its own copies, by the distance that the attack uses.

    Args:
        cut: the client. photos: `(B, 3, H, W)`, at least two. copies: name -> changed photos of the same shape.

    Returns:
        "another photo" (over all pairs) and every name of `copies` -> mean, smallest and largest distance.
    """
    tokens = cut.tokens(cut(photos))
    distances = {
        "another photo": torch.stack([cosine_distance(tokens.roll(k, 0), tokens) for k in range(1, len(tokens))])
    }
    distances |= {name: cosine_distance(cut.tokens(cut(changed)), tokens) for name, changed in copies.items()}
    return {name: (float(d.mean()), float(d.min()), float(d.max())) for name, d in distances.items()}


def growth(means: Mapping[str, Sequence[float]], names: Sequence[str]) -> Line:
    """Whether the distances `names`, listed by depth of the cut, grow from block 0 to block 12."""
    sentences = []
    for name in names:
        first, last = means[name][0], means[name][-1]
        grows = "grows" if last > first * 1.1 else "shrinks" if last < first * 0.9 else "hardly changes"
        sentences.append(f"From block 0 to block 12 the distance to {name} {grows}: {first:.3f} → {last:.3f}.")
    return Line(" ".join(sentences))


def evenness(early: Tensor, late: Tensor) -> Line:
    """Whether a change of the photo is spread more evenly over the tokens of a late cut; maps `(h, w)` of token distances."""
    if float(late.std() / late.mean()) < float(early.std() / early.mean()):
        return Line(
            "The late map is the more even one: attention has passed the change on to tokens of patches that hardly changed."
        )
    return Line("The late map is no more even than the early one: tokens still tell mostly of their own patch.")


def shuffled_table(client: SplitClient, plain: Tensor, shuffled: Tensor, gap: float, moved: float) -> pages.Table:
    """Logits `(B, classes)` without and with shuffling, their largest difference `gap`, and the IR distance `moved`."""
    same = bool((plain.argmax(1) == shuffled.argmax(1)).all())
    rows: list[list[object]] = [
        ["kind of message", client.layout.kind],
        ["tokens that stay in front", client.layout.prefix_tokens],
        ["the server ignores the order of the others", "yes" if client.layout.permutation_equivariant else "no"],
        ["largest change of a logit", f"{gap:.1e} (logits reach {float(plain.abs().max()):.1f})"],
        ["same answer for every photo", "yes" if same else "no"],
        ["IR distance, token by token", moved],
    ]
    return pages.table(["tokens shuffled", f"cut at {client.at}"], rows)
