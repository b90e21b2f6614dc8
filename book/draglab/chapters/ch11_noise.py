"""Chapter 11, noise and dropout: its tables, its recorded figures, and the sentences that read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from matplotlib.figure import Figure
from torch import Tensor

from dragkit.measures import intervals
from draglab.chapters.tradeoff import ATTACK, against_accuracy, keeps_half
from draglab.pages import pages
from draglab.pages.study import Study, in_words, signed
from draglab.studies import defence_study
from draglab.studies.noise import DROPOUT, GAUSSIAN, LAPLACE

# Every recorded strength: recipe, the reply to it, a short text for figures.
RECIPES = (
    *((f"gaussian:{s}", "likelihood", f"{s:g}") for s in GAUSSIAN),
    *((f"laplace:{s}", "likelihood", f"L {s:g}") for s in LAPLACE),
    *((f"dropout:{s}", "visible", f"{s:g}") for s in DROPOUT),
)


def widths(photos: Sequence[int] = (32, 400, 3925)) -> pages.Table:
    """Half the width of Wilson's 95 % interval of a share of 50 % and of 90 %, for numbers of photos."""
    rows = []
    for n in photos:
        both = (intervals.wilson_interval(round(share * n), n) for share in (0.5, 0.9))
        rows.append([n, *(f"{50 * (interval.high - interval.low):.1f} points" for interval in both)])
    return pages.table(["photos", "half-width at 50 %", "half-width at 90 %"], rows)


# -- live: margins, means, two photos ----------------------------------------------------------------------------------


def margins(distances: Mapping[float, Sequence[Tensor]], right: Sequence[int]) -> dict[float, list[float]]:
    """How much nearer the right guess is than the nearest wrong one.

    Args:
        distances: strength -> per photo, the IR distance of every guess `(guesses,)`. right: per photo, the place of its guess.

    Returns:
        strength -> margin of each photo.
    """
    return {
        scale: [
            float(torch.cat([apart[:place], apart[place + 1 :]]).min() - apart[place])
            for apart, place in zip(of_photos, right, strict=True)
        ]
        for scale, of_photos in distances.items()
    }


def margin_table(
    distances: Mapping[float, Sequence[Tensor]],
    gaps: Mapping[float, Sequence[float]],
    names: Sequence[str],
    guesses: Sequence[str],
) -> pages.Table:
    """The distances of all guesses to every message, and the margins that `margins` gives."""
    rows = [
        [f"{name}, strength {scale:g}", *apart.tolist(), f"{gap:+.3f}"]
        for scale in distances
        for name, apart, gap in zip(names, distances[scale], gaps[scale], strict=True)
    ]
    return pages.table(["IR distance of the guess", *guesses, "nearest wrong - right"], rows)


def predicted_margins(gaps: Mapping[float, Sequence[float]], rho: Mapping[float, float]) -> pages.Table:
    """Mean margins beside the prediction.

    Args:
        gaps: strength -> margins, strength 0 among them. rho: strength -> variance of the noise over the mean square of a message.
    """
    plain = fmean(gaps[0.0])
    rows = [[f"{s:g}", fmean(of_photos), plain / (1 + rho[s]) ** 0.5] for s, of_photos in gaps.items()]
    return pages.table(["strength", "margin", "predicted: margin without noise / √(1 + ρ)"], rows)


def nearest_count(gaps: Mapping[float, Sequence[float]]) -> str:
    """In how many rows the right photo is the nearest, as a sentence."""
    every = [gap for of_photos in gaps.values() for gap in of_photos]
    return f"The right photo is nearest in {sum(gap > 0 for gap in every)} of {len(every)} rows."


def mean_table(square: Mapping[int, float], apart: Mapping[int, float], rho: float) -> pages.Table:
    """Errors of the mean message.

    Args:
        square: messages averaged -> squared error in units of the message, one message first.
        apart: messages averaged -> IR distance to the undefended message. rho: as in `predicted_margins`, of one message.
    """
    one = square[min(square)]
    return pages.table(
        ["messages averaged", "squared error / ‖h‖²", "of one message's", "IR distance to h", "1 - 1/√(1 + ρ/k)"],
        [[k, square[k], f"{square[k] / one:.3f}", apart[k], 1 - (1 + rho / k) ** -0.5] for k in square],
    )


def erasure_table(h: Tensor, erased: Tensor, share: float, mean: Mapping[int, Tensor]) -> pages.Table:
    """What repeated messages with dropout reveal.

    Args:
        h: undefended messages `(B, N, D)`. erased: the same with dropout, `(k, B, N, D)`. share: that each of them erases.
        mean: how many of them are heard -> their mean, over those in which a number arrived.
    """
    rows = []
    for k, average in mean.items():
        seen = (erased[:k] != 0).any(0)
        wrong = float((average - h)[seen].abs().max())
        rows.append([k, f"{seen.double().mean():.2%}", f"{1 - share**k:.2%}", f"{wrong:.1e}"])
    return pages.table(["messages", "numbers seen", "predicted: 1 - pᵏ", "largest error of a seen number"], rows)


def on_two_photos(similarity: Mapping[str, Tensor], reached: float, truth: float) -> list[str]:
    """Sentences on the live attacks.

    Args:
        similarity: attacker -> MS-SSIM of each photo.
        reached: IR distance to the noisy message of what the unaware attacker found. truth: the same, of the photo itself.
    """
    mean = {label: float(values.mean()) for label, values in similarity.items()}
    unaware = mean["noise, unaware"]
    lines = [
        f"On these two photos noise takes {mean['undefended'] - unaware:+.2f} of MS-SSIM from the unaware attacker; "
        f"16 messages give {mean['noise, 16 averaged'] - unaware:+.2f} back.",
        f"Likelihood in the place of the angle, for one message: {mean['noise, likelihood'] - unaware:+.2f}.",
        f"IR distance to the noisy message: {reached:.3f} for what was found, {truth:.3f} for the photo itself.",
    ]
    if abs(reached - truth) < 0.01:
        lines.append("The two are equal to 0.01: the search is as near to the message as the truth is.")
        lines.append("What is left to fit is mostly noise.")
    elif reached < truth:
        lines.append(
            "What was found fits the message better than the truth: a part of the noise was taken for the photo."
        )
    else:
        lines.append(
            "The search has not come as near to the message as the truth is, so noise was not what stopped it."
        )
    return lines


# -- recorded ------------------------------------------------------------------------------------------------------------


def over_accuracy(study: Study, metric: str) -> Figure:
    """A metric over the server's accuracy: noise and dropout, by attackers who do not know of it and who do."""
    series: dict[str, list[tuple[str, str]]] = {}
    for recipe, reply, text in RECIPES:
        kind, aware = ("dropout", "zeros masked") if reply == "visible" else ("noise", "likelihood")
        series.setdefault(f"{kind}, unaware", []).append((recipe, ""))
        series.setdefault(f"{kind}, {aware}", []).append((f"{recipe}, {reply}", text))
    return against_accuracy(study, series, metric, (defence_study.PRIOR, "decoder ceiling"))


def _strengths(study: Study) -> list[tuple[str, str, str]]:
    """(recipe, row with the reply, stronger of the two by mean MS-SSIM) of every recorded strength."""
    pairs = [(recipe, f"{recipe}, {reply}") for recipe, reply, _ in RECIPES]
    recorded = [pair for pair in pairs if set(pair) <= set(study.rows)]
    return [(*pair, max(pair, key=lambda label: study.rows[label]["ms_ssim"]["mean"])) for pair in recorded]


def prices(study: Study) -> pages.Table:
    """Accuracy, leakage to the stronger attacker, and what the reply was worth, per strength."""
    rows = []
    for recipe, replied, stronger in _strengths(study):
        gain = study.difference(replied, recipe, "ms_ssim")
        accuracy, low, high = study.rows[replied]["accuracy"]
        row = study.rows[stronger]
        rows.append(
            [
                recipe,
                f"{accuracy:.1%} ({low:.1%} to {high:.1%})",
                replied.partition(", ")[2] if stronger == replied else "unaware",
                row["ms_ssim"]["mean"],
                f"{row['retrieval_top1'][0]:.0%}",
                keeps_half(study, stronger),
                f"{gain.mean:+.3f}",
                in_words(gain, "ms_ssim"),
            ]
        )
    header = ["defence", "accuracy", "stronger attacker", "MS-SSIM", "found among 1,000", "keeps half"]
    return pages.table([*header, "reply - unaware", "the reply is"], rows)


def prices_in_words(study: Study) -> list[str]:
    """Sentences: the undefended attack, and of each kind of noise, where the reply helps and which strengths take half."""
    if not study:
        return []
    plain = study.rows[defence_study.OPEN]
    lines = [f"Undefended: accuracy {plain['accuracy'][0]:.1%}, MS-SSIM {plain['ms_ssim']['mean']:.3f}."]
    for kind, reply in (("gaussian", "likelihood"), ("laplace", "likelihood"), ("dropout", "masking")):
        own = [strength for strength in _strengths(study) if strength[0].startswith(kind)]
        words: dict[str, list[str]] = {}
        for recipe, replied, _ in own:
            words.setdefault(in_words(study.difference(replied, recipe, "ms_ssim"), "ms_ssim"), []).append(recipe)
        worth = "; ".join(f"{word}: {', '.join(which)}" for word, which in words.items())
        stopped = [recipe for recipe, _, stronger in own if keeps_half(study, stronger) == "no"]
        lines.append(
            f"{kind}: {reply} beside the unaware attacker is {worth}. "
            f"Takes more than half: {', '.join(stopped) or 'no strength tried'}."
        )
    return lines


def servers(study: Study) -> pages.Table:
    """Accuracy before and after the server's training, and what is still lost against no defence."""
    rows = []
    for recipe, row in study.rows.items():
        tuned = study.rows.get(f"{recipe}, trained server")
        if tuned and recipe == row["defence"]:
            before, after, plain = (r["accuracy"][0] for r in (row, tuned, study.rows[defence_study.OPEN]))
            rows.append([recipe, f"{before:.1%}", f"{after:.1%}", f"{100 * (plain - after):.1f} points"])
    return pages.table(["defence", "accuracy before", "with a trained server", "still lost"], rows)


def others(study: Study) -> pages.Table:
    """Every other attacker beside the unaware one, on the same photos."""
    rows = []
    for label, row in study.rows.items():
        recipe, _, who = label.partition(", ")
        if who in ("expectation", "inverse network"):
            gain = study.difference(label, recipe, "ms_ssim")
            kept = keeps_half(study, label)
            rows.append([recipe, who, row["ms_ssim"]["mean"], kept, signed(gain), in_words(gain, "ms_ssim")])
    return pages.table(["defence", "attacker", "MS-SSIM", "keeps half", f"minus unaware {ATTACK}", "this one is"], rows)
