"""Chapter 6: where the algorithm stands in the code, and how the overfit test and the restarts are read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dragkit.attacks.restarts import Samples
from dragkit.client import SplitClient
from dragkit.config import DragConfig
from dragkit.distance import cosine_distance
from dragkit.measures import intervals, metrics
from draglab.pages import pages
from draglab.pages.study import Line, Study, bullets, signed

# -- the algorithm ---------------------------------------------------------------------------------------------------


def located(items: Sequence[tuple[str, Callable[..., object], str]]) -> pages.Table:
    """Item -> function -> number and text of the first line of its source that has the given words in it.

    Args:
        items: (item, function, words).

    Raises:
        LookupError: a function without such a line.
    """
    rows = [[item, function.__qualname__, *_line(function, words)] for item, function, words in items]
    return pages.table(["item", "function", "line", "in dragkit/attacks/drag.py"], rows)


def _line(function: Callable[..., object], words: str) -> tuple[int, str]:
    lines, first = inspect.getsourcelines(function)
    for number, line in enumerate(lines, first):
        if words in line:
            return number, line.strip()
    raise LookupError(f"{function.__qualname__} has no line with {words!r}")


def switches(config: DragConfig) -> pages.Table:
    """Every setting of DRAG: published, on this page, and what it does."""
    pairs = zip(DragConfig.paper().describe(), config.describe(), strict=True)
    rows = [[name, published, here, meaning] for (name, published, meaning), (_, here, _) in pairs]
    return pages.table(["DragConfig", "published", "on this page", "what it does"], rows)


def differs(config: DragConfig) -> Line:
    """What these settings change of the published ones, and how many turns they take."""
    published = DragConfig.paper()
    turns, theirs = (c.num_steps * c.recurrence for c in (config, published))
    names = ", ".join(f"`{name}`" for name in pages.changed(config, published)) or "nothing"
    return Line(f"Different on this page: {names}. Turns: {turns:,} instead of {theirs:,}.")


# -- the overfit test ------------------------------------------------------------------------------------------------


def room(photos: Tensor, h: Tensor, client: SplitClient) -> Line:
    """Whether a token has as many numbers as its patch. photos: `(B, 3, S, S)`. h: `(B, N, D)`."""
    patch = photos[0].numel() // (h.shape[1] - client.layout.prefix_tokens)
    if h.shape[2] >= patch:
        finding = "A linear map of that shape need not lose anything."
    else:
        finding = f"So the message lacks {1 - h.shape[2] / patch:.0%} of the dimensions of every patch. The prior must fill in."
    return Line(f"A patch has {patch} numbers, its token {h.shape[2]}. {finding}")


@torch.no_grad()
def apart(images: Tensor, photos: Tensor, client: SplitClient) -> Tensor:
    """IR distance `(B,)` of images to as many photos, at the cut of `client`."""
    return cosine_distance(client.tokens(client(images)), client.tokens(client(photos[: len(images)])))


class Outcome(NamedTuple):
    """Means over the photos of one way to run the attack."""

    ms_ssim: float
    psnr: float
    st_lpips: float
    distance: float


def outcome(images: Tensor, photos: Tensor, client: SplitClient) -> Outcome:
    """Metrics of the images `(B, 3, S, S)` and their IR distance, in the mean."""
    return Outcome(
        float(metrics.ms_ssim(images, photos).mean()),
        float(metrics.psnr(images, photos).mean()),
        float(metrics.st_lpips(images, photos).mean()),
        float(apart(images, photos, client).mean()),
    )


def outcomes(rows: Mapping[str, Outcome]) -> pages.Table:
    """A row per way to run the attack."""
    header = ["mean of two photos", "MS-SSIM", "PSNR (dB)", "ST-LPIPS", "IR distance"]
    return pages.table(header, [[name, *row] for name, row in rows.items()])


class Suspects(NamedTuple):
    """Outcomes that tell the four causes of a gap apart.

    Attributes:
        short, middle, long: of an attack with a quarter of the steps, as it is, and with three times as many.
        often: with three times the turns per step. cleaned: as it is, with the last estimate decoded.
        ceiling: of the decoder's round trip of the photos.
    """

    short: Outcome
    middle: Outcome
    long: Outcome
    often: Outcome
    cleaned: Outcome
    ceiling: Outcome


def blame(suspects: Suspects, recurrence: int) -> Line:
    """Which suspect the outcomes point at. recurrence: turns per step of the middle run."""
    short, middle, long, often, cleaned, ceiling = suspects
    ratio = (1 - ceiling.ms_ssim) / (1 - long.ms_ssim)
    again = f"The threefold turns spent on going back, k = {3 * recurrence}: IR distance {often.distance:.3f}. "
    if often.distance > middle.distance - 0.01:
        again += f"That is no closer to the message than a third of the turns with k = {recurrence}."
    elif often.distance > long.distance:
        again += "That helps, but finer steps were the better use of the turns."
    else:
        again += "That was at least as good a use of the turns as finer steps."
    return bullets(
        [
            f"IR distance: {short.distance:.3f}, {middle.distance:.3f}, {long.distance:.3f}; ceiling {ceiling.distance:.3f}.",
            "Also the longest run ends further from the message than the ceiling's picture. The search is guilty."
            if long.distance > ceiling.distance
            else "The longest run fits the message as well as the ceiling's picture does. The search is not to blame.",
            f"Of the MS-SSIM that the longest run lacks to 1, the decoder's own limit is {ratio:.0%}.",
            f"Decoding the last estimate instead of z_0: {cleaned.ms_ssim - middle.ms_ssim:+.4f} in MS-SSIM. "
            f"Three times the turns: {long.ms_ssim - middle.ms_ssim:+.3f}.",
            again,
        ]
    )


def recorded_overfit(study: Study) -> Line:
    """How far the recorded attack is from perfect, from the decoder's round trip, and what the decoder accounts for."""
    drag, ceiling = study.rows["DRAG"], study.rows["decoder ceiling"]
    got, possible = (torch.tensor(row["per_photo"]["ms_ssim"]) for row in (drag, ceiling))
    mean, low, high = intervals.bootstrap_ci(got)
    gap = study.difference("decoder ceiling", "DRAG", "ms_ssim")
    if gap.low > 0:
        finding = "The attack stays below what its own decoder can draw."
    elif gap.high < 0:
        finding = "The attack is above the decoder's round trip: the encoder does not find the best latent."
    else:
        finding = "Attack and decoder's round trip are not told apart."
    share = float((1 - possible).mean() / (1 - got).mean())
    return bullets(
        [
            f"{drag['nfe']:,} turns: MS-SSIM {mean:.3f} (95 % interval {low:.3f} to {high:.3f}).",
            f"0.95 or more: {int((got >= 0.95).sum())} of {len(got)} photos; the decoder: {int((possible >= 0.95).sum())}. "
            f"The test asks for 0.95: {'reached' if low > 0.95 else 'missed' if high < 0.95 else 'open'}.",
            f"Ceiling minus DRAG, photo by photo: {gap.mean:.3f} ({gap.low:.3f} to {gap.high:.3f}). {finding}",
            f"The decoder's own limit is {share:.0%} of what is missing to 1.",
        ]
    )


def recorded_search(study: Study, suspects: Suspects, turns: int) -> Line:
    """Whether the recorded search has a part in the gap, measured by the ceiling's pictures of this page's two photos.

    Args:
        suspects: of this page. turns: of its longest run.
    """
    ending = torch.tensor(study.rows["DRAG"]["distance"])
    best, long = suspects.ceiling.distance, suspects.long
    if float(ending.min()) > best:
        finding = "Not one photo's message was fitted that well: the search has a part in the gap of every photo."
    elif float(ending.mean()) > best:
        finding = "On average the messages were not fitted that well: the search has a part in the gap."
    else:
        finding = "On average the messages were fitted as well. What is missing belongs to message and decoder."
    here = f"This page's {turns} turns ended at {long.distance:.3f}, MS-SSIM {long.ms_ssim:.3f}, on two other photos."
    if long.distance < float(ending.mean()) and turns < study.rows["DRAG"]["nfe"]:
        here += " Fewer turns came closer. A hint, on other photos, that many turns of the published kind are no cure."
    return bullets(
        [
            f"Final IR distance: mean {ending.mean():.3f}, smallest {ending.min():.3f}. "
            f"For comparison, the ceiling's pictures of this page's two photos are at {best:.3f}.",
            finding,
            here,
        ]
    )


def settings_or_algorithm(small: Study, published: Study) -> Line:
    """Whether the small prior's settings pass the test that the published ones were given."""
    if not published:
        return published.origin
    gain = intervals.paired_difference(*(s.rows["DRAG"]["per_photo"]["ms_ssim"] for s in (small, published)))
    low = small.rows["DRAG"]["ms_ssim"]["ci"][0]
    lines = [
        f"Small prior's settings minus published, photo by photo: {signed(gain)}.",
        f"The test asks for 0.95: {'reached' if low > 0.95 else 'not reached beyond doubt'} with these settings.",
    ]
    if gain.low > 0:
        lines.append("So it was the settings that fell short, not the algorithm.")
    return bullets(lines)


# -- restarts --------------------------------------------------------------------------------------------------------


def chosen(tries: Samples, similarity: Tensor) -> list[str]:
    """Under the restarts of one photo: similarity `(S,)`, IR distance, and a star for the attacker's choice."""
    captions = pages.captions(similarity.tolist(), tries.distance[:, 0].tolist())
    return [text + " *" * (i == int(tries.chosen[0])) for i, text in enumerate(captions)]


def _by_patch(values: Tensor) -> Tensor:
    """Means over patches of 8 x 8 pixels `(H / 8, W / 8)`: three restarts say little about a single pixel."""
    return torch.nn.functional.avg_pool2d(values[None], 8)[0]


def evidence(
    name: str, tries: Samples, photo: Tensor, similarity: Tensor, maps: Mapping[str, Tensor], ceiling: float
) -> list[str]:
    """What the restarts of one photo say at one cut.

    Args:
        name: of the cut. photo: `(3, S, S)`. similarity: of the restarts to the photo, `(restarts,)`.
        maps: name -> evidence map `(S, S)`, "prior alone" among them.
        ceiling: IR distance of the decoder's round trip of the photo, at this cut.
    """
    doubt, free = _by_patch(maps[name]), _by_patch(maps["prior alone"])
    share = float(maps[name].mean() / maps["prior alone"].mean())
    settled = float((doubt < free / 2).float().mean())
    wrong = _by_patch((tries.images[:, 0].mean(0) - photo).abs().mean(0))
    agreement = float(torch.corrcoef(torch.stack([doubt.flatten(), wrong.flatten()]))[0, 1])
    nearest = int(tries.chosen[0]) == int(similarity.argmax())
    short = int((tries.distance[:, 0] > ceiling).sum())
    return [
        f"{name}: {share:.0%} of the prior's own variation is left; less than half in {settled:.0%} of the patches.",
        f"{name}: correlation of doubt with the true error, over patches: {agreement:+.2f}.",
        f"{name}: the restart of smallest IR distance is {'' if nearest else 'not '}the one nearest to the photo.",
        f"{name}: {short} of {len(tries.distance)} restarts end further from the message than the ceiling's picture, "
        f"which is at {ceiling:.3f}.",
    ]
