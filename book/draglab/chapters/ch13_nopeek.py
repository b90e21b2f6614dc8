"""Chapter 13, NoPeek: its tables, its recorded figures, and the sentences that read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from draglab.chapters.tradeoff import ATTACK, keeps_half
from draglab.pages import pages
from draglab.pages.study import Study, in_words, signed
from draglab.studies import defence_study
from draglab.studies.nopeek import CONTROL as CONTROL_MODEL
from draglab.studies.nopeek import SHIPPED as SHIPPED_MODEL

SHIPPED, CONTROL = (name.removeprefix("nopeek-") for name in (SHIPPED_MODEL, CONTROL_MODEL))
"""Recorded rows of the shipped NoPeek client, and of its control, the same training without the loss."""

LEAKS = {"better": "leaks more", "worse": "leaks less"}

# -- live --------------------------------------------------------------------------------------------------------------


def pieces_of(photos: Tensor, count: int, seed: int) -> Tensor:
    """Overlapping pieces of 64 pixels a side, drawn at random.

    Args:
        photos: `(n, 3, H, W)`, H and W at least 64. count: how many pieces at most.

    Returns:
        `(count, 3, 64, 64)`.
    """
    cut = photos.unfold(2, 64, 32).unfold(3, 64, 32).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 64, 64)
    return cut[torch.randperm(len(cut), generator=torch.Generator().manual_seed(seed))][:count]


def independent(biased: Mapping[int, float], unbiased: Mapping[int, float]) -> pages.Table:
    """Estimates of a correlation that is 0, by number of photos: as trained, and U-centred."""
    return pages.table(
        ["batch of independent noise", "dCor as trained", "its square, U-centred"],
        [[f"N = {n}", biased[n], unbiased[n]] for n in biased],
    )


def independent_in_words(biased: Mapping[int, float], unbiased: Mapping[int, float]) -> list[str]:
    """Sentences on the same estimates."""
    usual, fair = biased.values(), unbiased.values()
    lines = [
        f"The usual estimate of a correlation that is 0 lies between {min(usual):.3f} and {max(usual):.3f}, the "
        f"U-centred one between {min(fair):+.3f} and {max(fair):+.3f}."
    ]
    if min(usual) > 0.9:
        lines.append("At this size the usual estimate cannot tell noise from a copy.")
    return lines


def floor_in_words(floor: Sequence[float], dimensions: int) -> str:
    """A sentence on the usual estimate of independent noise: of messages with one dimension first, with so many last."""
    if floor[0] >= floor[-1]:
        return "The usual estimate does not rise with the number of dimensions here."
    return (
        f"Messages with one dimension score {floor[0]:.2f}, messages with {dimensions:,} score {floor[-1]:.2f}. Neither says\n"
        "anything about the photo. A client can lower this loss by varying its messages in fewer directions."
    )


def on_pieces_in_words(estimates: Mapping[str, Sequence[float]]) -> str:
    """How much of the trained number is there without any dependence, at both numbers of pieces."""
    share, later = (
        estimates[f"another's message, N = {n}"][0] / estimates[f"own message, N = {n}"][0] for n in (32, 128)
    )
    return f"Of the number that is trained, {share:.0%} is there without any dependence at N = 32, and {later:.0%} at N = 128."


def disguised_in_words(measured: Sequence[float], own: Sequence[float], error: float) -> list[str]:
    """Sentences on the disguised message.

    Args:
        measured, own: both estimates, as trained and U-centred, of the disguised and of the client's own message.
        error: relative error after undoing the disguise.
    """
    lower = [name for name, m, o in zip(("as trained", "U-centred"), measured, own, strict=True) if m < o]
    return [
        f"The disguised message: dCor² {measured[0]:.3f} as trained, {measured[1]:.3f} U-centred.",
        f"Lower than the client's own message: {', '.join(lower) or 'by neither estimate'}.",
        f"Undone by the inverse matrix: relative error {error:.1e}.",
    ]


def changed(measured: Mapping[str, Sequence[float]]) -> pages.Table:
    """Client -> both estimates, and in how many directions its messages vary."""
    return pages.table(
        ["128 pieces", "dCor² as trained", "dCor² U-centred", "directions"],
        [[name, low, fair, f"{wide:.1f}"] for name, (low, fair, wide) in measured.items()],
    )


def changed_in_words(measured: Mapping[str, Sequence[float]]) -> list[str]:
    """Sentences: what NoPeek's training did to both estimates and to the number of directions."""
    if "NoPeek" not in measured:
        return []
    (low0, fair0, wide0), (low1, fair1, wide1) = measured["undefended"], measured["NoPeek"]
    return [
        f"The trained number went {'down' if low1 < low0 else 'up'} by {abs(low1 - low0):.3f}.",
        f"The U-centred one went {'down' if fair1 < fair0 else 'up'} by {abs(fair1 - fair0):.3f}.",
        f"Messages vary in {'fewer' if wide1 < wide0 else 'no fewer'} directions: {wide0:.1f} before, {wide1:.1f} after.",
    ]


# -- recorded ----------------------------------------------------------------------------------------------------------


def trained(study: Study) -> pages.Table:
    """How the training of each client differs from the shipped one's, its correlations, and its accuracy."""
    base, rows = study.rows[SHIPPED]["models"][SHIPPED_MODEL], []
    for label, row in study.rows.items():
        if row.get("method") != "drag" or row["client"] not in row["models"]:
            continue
        model = row["models"][row["client"]]
        values = [model["measured"][key]["value"] for key in ("correlation", "correlation_unbiased", "top1")]
        rows.append([label, defence_study.changed(model, base) or "-", *values[:2], f"{values[2]:.1%}"])
    return pages.table(["client", "changed", "dCor as trained", "U-centred", "accuracy"], rows)


def ablation(study: Study) -> pages.Table:
    """Every row that DRAG attacked: what it leaks, what it is worth, and how it compares with the control."""
    rows = []
    for label, row in study.rows.items():
        if row.get("method") != "drag":
            continue
        gap, word = "-", "the control" if label == CONTROL else "no control"
        if label != CONTROL and CONTROL in study.rows:
            difference = study.difference(label, CONTROL, "ms_ssim")
            gap, word = signed(difference), in_words(difference, "ms_ssim")
        leak = [row[metric]["mean"] for metric in ("ms_ssim", "st_lpips")]
        first = f"{row['retrieval_top1'][0]:.0%}"
        rows.append([label, f"{row['accuracy'][0]:.1%}", *leak, first, gap, LEAKS.get(word, word)])
    header = ["client", "accuracy", "MS-SSIM", "ST-LPIPS", "found among 1,000", "MS-SSIM minus control"]
    return pages.table([*header, "by its interval"], rows)


def effects(study: Study) -> list[str]:
    """Sentences: what NoPeek did, beside what further training did; an inverse network; whether DRAG keeps half."""
    lines = []
    for a, b, what in (
        (CONTROL, defence_study.OPEN, "Further training alone"),
        (SHIPPED, CONTROL, "The loss, beside the same training without it"),
        (SHIPPED, defence_study.OPEN, "Both together"),
    ):
        if not {a, b} <= set(study.rows):
            lines.append(f"{what}: not recorded.")
            continue
        gap = study.difference(a, b, "ms_ssim")
        word = in_words(gap, "ms_ssim")
        lost = study.rows[a]["accuracy"][0] - study.rows[b]["accuracy"][0]
        lines.append(
            f"{what}: {LEAKS.get(word, word)}; MS-SSIM of {ATTACK} {signed(gap)}. Accuracy: {100 * lost:+.1f} points."
        )
    network = f"{SHIPPED}, inverse network"
    if {network, SHIPPED} <= set(study.rows):
        gap = study.difference(network, SHIPPED, "st_lpips")
        lines.append(
            f"An inverse network trained on NoPeek's messages, beside {ATTACK}, in ST-LPIPS: {in_words(gap, 'st_lpips')}, "
            f"{signed(gap)}."
        )
    if SHIPPED in study.rows:
        kept = {"yes": "more than", "no": "less than", "undecided": "about"}[keeps_half(study, SHIPPED)]
        lines.append(f"DRAG keeps {kept} half of the MS-SSIM that it gains over the prior alone without the defence.")
    return lines
