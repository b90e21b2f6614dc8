"""Chapter 12, tokens: its tables, its recorded figures, and the sentences that read them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from dragkit.adaptive.distances import match
from dragkit.adaptive.reorder import IMAGENETTE, Positions, fit_positions
from dragkit.bounds import success_bound
from dragkit.cache import cache_dir, weights_digest
from dragkit.client import SplitClient
from dragkit.distance import Distance
from dragkit.measures import metrics
from draglab.chapters.tradeoff import Series, against_accuracy, decided, keeps_half
from draglab.pages import pages, plots
from draglab.pages.study import Line, Study, in_words, signed
from draglab.studies import defence_study
from draglab.studies.first_checks import PAPER
from draglab.studies.tokens import AFTER_DROP, ORDERS, SHARES
from draglab.studies.transport import BITS, RANKS, SECRET, TOPK

Pair = tuple[float, float]

# -- live: distances to a message --------------------------------------------------------------------------------------


def moved(answers: Tensor, plain: Tensor) -> float:
    """Largest change of the server's output, in units of its largest number."""
    return float((answers - plain).abs().max() / plain.abs().max())


def nearest(
    guesses: Tensor, right: Sequence[int], distance: Distance, message: Tensor, mask: Tensor | None = None
) -> list[Pair]:
    """Distance to each message: of the right guess, and of the nearest of the others.

    Args:
        guesses: tokens `(G, N, D)`. right: for each message, the place of its guess.
        message: `(n, N, D)`. mask: which of its tokens arrived, bool `(n, N)`; all when None.
    """
    out = []
    for i, place in enumerate(right):
        arrived = None if mask is None else mask[i : i + 1].expand(len(guesses), -1)
        apart = distance(guesses, message[i : i + 1].expand_as(guesses), arrived).clamp(min=0)
        out.append((float(apart[place]), float(torch.cat([apart[:place], apart[place + 1 :]]).min())))
    return out


def candidates(
    header: str, apart: Mapping[str, Sequence[Pair]], names: Sequence[str], who: str = "right"
) -> pages.Table:
    """Two distances of each photo, by each way to measure them: of `who`, and of the nearest wrong photo."""
    return pages.table(
        [header, *(f"{name}: {one}" for name in names for one in (who, "nearest wrong"))],
        [[label, *(value for pair in pairs for value in pair)] for label, pairs in apart.items()],
    )


def sets_in_words(apart: Mapping[str, Sequence[Pair]]) -> list[str]:
    """Sentences: which distances are 0 for the right photo, and which prefer another one."""
    lost = [label for label, pairs in apart.items() if any(own >= other for own, other in pairs)]
    exact = [label for label, pairs in apart.items() if all(own < 1e-4 for own, _ in pairs)]
    return [
        f"Exactly 0 for the right photo, up to rounding: {', '.join(exact) or 'none'}.",
        f"The right photo is not the nearest one by: {', '.join(lost) or 'none of them'}.",
    ]


def places(side: int) -> tuple[Tensor, Tensor]:
    """Of `side * side` tokens, their own places and the mirrored ones: same row, same distance from the middle, other side."""
    own = torch.arange(side * side)
    return own, own.view(side, side).flip(1).flatten()


def landed(header: str, placed: Mapping[str, Tensor], side: int) -> pages.Table:
    """Shares of tokens that are put into their own place, into its mirror image, and elsewhere, with chance as the last row.

    Args:
        placed: who puts them -> the place of each token, `(B, side * side)`; tokens lie in order.
    """
    own, mirror = places(side)
    rows = {}
    for who, put in placed.items():
        shares = [float((put.cpu() == place).double().mean()) for place in (own, mirror)]
        rows[who] = [*shares, 1 - sum(shares)]
    rows["chance"] = [share / len(own) for share in (1, 1, len(own) - 2)]
    return pages.table(
        [header, "own place", "mirrored place", "elsewhere"],
        [[who, *(f"{share:.1%}" for share in shares)] for who, shares in rows.items()],
    )


def cached_positions(client: SplitClient) -> Positions | None:
    """The position classifier of this client in the cache, of the longest training; None where there is none.

    It is never trained here, which would take minutes.
    """
    wanted = {"name": "position classifier", "client": client.name, "at": client.at, "photos": IMAGENETTE}
    wanted["weights"] = weights_digest(client.model)
    cards = [json.loads(file.read_text()) for file in sorted((cache_dir() / "probes").glob("*.json"))]
    known = [card for card in cards if wanted.items() <= card.items()]
    if not known:
        return None
    best = max(known, key=lambda card: card["steps"])
    return fit_positions(client, **{name: best[name] for name in ("n_train", "n_held_out", "steps", "seed")})


def positions_in_words(positions: Positions | None, client: SplitClient) -> list[str]:
    """Sentences: how often the classifier is right on held-out photos, or what trains one."""
    if positions is None:
        return [
            f"No position classifier of {client.name} at {client.at} is in {cache_dir() / 'probes'}.",
            f"`python -m dragkit.adaptive.reorder --client {client.name} --at {client.at}` trains one.",
        ]
    lines = []
    for what, share in positions.card["measured"].items():
        low, high = share["ci"]
        lines.append(f"{what}: {share['value']:.1%} [{low:.1%}, {high:.1%}], {share['n']} held-out training photos.")
    return lines


def classified(header: str, positions: Positions | None, tokens: Tensor, side: int) -> pages.Table | None:
    """`landed` for the classifier; nothing without one.

    Args:
        tokens: `(B, N, D)`, in order. side: of the square of patches.
    """
    return None if positions is None else landed(header, {"position classifier": match(-positions(tokens))}, side)


def mirrored_in_words(pairs: Sequence[Pair]) -> str:
    """A sentence on (distance of the mirrored photo, of the nearest wrong photo) of each message, by assignment."""
    ratio = max(mirrored / wrong for mirrored, wrong in pairs)
    if ratio < 0.25:
        return (
            f"By assignment the mirrored photo is at most {ratio:.0%} as far as the nearest wrong photo: nearly as good\n"
            "as the right one. Comparing sets may find the photo, its mirror image, or a mixture of both."
        )
    return f"By assignment the mirrored photo is up to {ratio:.0%} as far as the nearest wrong photo: sides are told apart."


# -- live: dropped, turned, shortened ------------------------------------------------------------------------------------


def mask_table(masked: Sequence[Pair], unaware: Sequence[Pair], share: float, names: Sequence[str]) -> pages.Table:
    """Distances with and without the mask, and those that follow from the mask's; `share` of the tokens arrived."""
    rows = [
        [f"{name}, {who}", masked[i][j], unaware[i][j], share * masked[i][j] + 1 - share]
        for i, name in enumerate(names)
        for j, who in enumerate(("right photo", "nearest wrong"))
    ]
    return pages.table(
        [f"{share:.1%} of the tokens arrived", "masked", "unaware", "predicted: s · masked + 1 - s"], rows
    )


def pooled_table(pooled: Mapping[int, Sequence[int]], names: Sequence[str], patches: int) -> pages.Table:
    """How many different tokens of each photo so many messages brought, half of them dropped each time."""
    return pages.table(
        ["messages", *(f"{name}: different tokens" for name in names), "predicted: n (1 - pᵏ)"],
        [[k, *different, f"{patches * (1 - 0.5**k):.0f}"] for k, different in pooled.items()],
    )


def turned_table(matched: Mapping[str, float], public: Mapping[str, float]) -> pages.Table:
    """Change of the server's output through each basis, with weights changed to match it and with the public ones."""
    return pages.table(
        ["change of the server's output", "weights changed to match", "public weights"],
        [[label, f"{matched[label]:.1e}", f"{public[label]:.1e}"] for label in matched],
    )


def recovered_table(errors: Mapping[str, float], back: Mapping[str, float]) -> pages.Table:
    """Largest errors of the secrets that were read off the weights, and of the messages turned back with them."""
    return pages.table(
        ["secret", "largest error of a number of Q", "of the message turned back"],
        [[label, f"{errors[label]:.1e}", f"{back[label]:.1e}"] for label in errors],
    )


def recovered_in_words(errors: Mapping[str, float]) -> str:
    """Whether the secrets were read off the weights to rounding."""
    if max(errors.values()) < 1e-5:
        return "Recovered to the rounding of the weights. The attack then goes on with the message as it was."
    return "Not recovered to rounding: the weights here do not determine the secret."


def limited_table(bits: Mapping[str, int], lost: Mapping[str, float], whole: int) -> pages.Table:
    """Shorter messages: their bits, the squared error they cost, and the bound on finding the photo among 1,000.

    Args:
        bits: recipe -> bits of the message. lost: recipe -> squared error in units of the message. whole: bits of all of it.
    """
    rows = [
        [recipe, f"{n:,}", f"{n / whole:.1%}", lost[recipe], f"{success_bound(1 / 1000, n):.0%}"]
        for recipe, n in bits.items()
    ]
    return pages.table(["defence", "bits", "of the message", "squared error / ‖h‖²", "bound: found among 1,000"], rows)


def useful_bits(bits: Mapping[str, int]) -> list[str]:
    """Sentences: how short a message would have to be for its bound to say something, beside the shortest of these."""
    if not bits:
        return []
    useful, shortest = math.log2(1000), min(bits.values())
    return [
        f"To bound who is found among 1,000 photos, a message must have fewer than log2(1,000) = {useful:.1f} bits.",
        f"The shortest one here has {shortest:,}, which is {shortest / useful:,.0f} times as many.",
    ]


def on_two_photos(similarity: Mapping[str, Tensor], mirrored: Tensor, names: Sequence[str]) -> list[str]:
    """Sentences on the live attacks.

    Args:
        similarity: attacker -> MS-SSIM of each photo. mirrored: of the attack by assignment to the mirrored photos.
    """
    mean = {label: float(values.mean()) for label, values in similarity.items()}
    unaware, assigned = mean["shuffled, unaware"], mean["shuffled, assignment"]
    word = "gives" if assigned > unaware else "does not help"
    lines = [
        f"On these two photos shuffling takes {mean['undefended'] - unaware:+.2f} of MS-SSIM from somebody unaware of it.",
        f"The assignment in the loop, without training or public photos, {word}: {assigned - unaware:+.2f}.",
    ]
    for name, here, there in zip(names, similarity["shuffled, assignment"].tolist(), mirrored.tolist(), strict=True):
        nearer = "more like the mirror image" if there > here else "more like the photo"
        nearer = "like neither" if max(here, there) < 0.1 else "like both" if abs(here - there) < 0.05 else nearer
        lines.append(
            f"{name} by assignment: MS-SSIM {here:.2f} to the photo, {there:.2f} to its mirror image ({nearer})."
        )
    dropping = mean["half dropped, masked"] - mean["undefended"]
    lines.append(f"Half of the tokens, masked: {dropping:+.2f} against the undefended attack.")
    return [*lines, "Two photos and few turns decide nothing. The recorded runs do."]


# -- recorded: replies -------------------------------------------------------------------------------------------------

SHUFFLES = tuple(f"shuffle, {reply}" for reply in (*ORDERS, "inverse network"))


def _intervals(study: Study, labels: Sequence[str], metric: str) -> Figure:
    """A dot with its interval for those rows that were recorded."""
    intervals = pages.summaries(study.data, metric)
    return plots.intervals({label: intervals[label] for label in labels if label in intervals}, metrics.LABELS[metric])


def shuffled(study: Study, metric: str) -> Figure:
    """Every attacker of shuffled tokens, between the undefended attack and the prior alone."""
    return _intervals(study, [defence_study.OPEN, "shuffle", *SHUFFLES, defence_study.PRIOR], metric)


def _answered(study: Study, unaware: str, replies: Sequence[str]) -> list[list[object]]:
    """Rows of `answered`."""
    rows = []
    for label in replies:
        if label in study.rows and unaware in study.rows:
            row, gain = study.rows[label], study.difference(label, unaware, "ms_ssim")
            left = study.difference(label, defence_study.OPEN, "ms_ssim")
            leak = [row[metric]["mean"] for metric in ("ms_ssim", "st_lpips")]
            first = f"{row['retrieval_top1'][0]:.0%}"
            rows.append([label, *leak, first, signed(gain), in_words(gain, "ms_ssim"), signed(left)])
    return rows


def answered(study: Study, families: Mapping[str, Sequence[str]]) -> pages.Table:
    """Each reply against the attacker who does not know, and against the undefended attack, on the same photos.

    Args:
        families: row of the attacker who does not know -> rows of those who do; what was not recorded is left out.
    """
    header = ["reply", "MS-SSIM", "ST-LPIPS", "found among 1,000", "minus unaware", "the reply is", "minus undefended"]
    return pages.table(
        header, [row for unaware, replies in families.items() for row in _answered(study, unaware, replies)]
    )


def shuffled_in_words(study: Study) -> list[str]:
    """Sentences: which replies help, which is the strongest, what shuffling takes from it, and what it costs."""
    known = [label for label in SHUFFLES if label in study.rows]
    if not known:
        return []
    words: dict[str, list[str]] = {}
    for label in known:
        word = in_words(study.difference(label, "shuffle", "ms_ssim"), "ms_ssim")
        words.setdefault(word, []).append(label.removeprefix("shuffle, "))
    lines = [
        "Beside the unaware attacker, " + "; ".join(f"{w}: {', '.join(which)}" for w, which in words.items()) + "."
    ]
    best, second = sorted(known, key=lambda label: study.rows[label]["ms_ssim"]["mean"], reverse=True)[:2]
    gap = study.difference(best, second, "ms_ssim")
    lines.append(
        f"Strongest by mean MS-SSIM: {best}, before {second} by {signed(gap)} ({decided(gap, 'decided', 'reversed')})."
    )
    if {"shuffle, placed", "shuffle, reorder"} <= set(known):
        gap = study.difference("shuffle, placed", "shuffle, reorder", "ms_ssim")
        said = in_words(gap, "ms_ssim")
        lines.append(f"Classifier and picture together, beside the classifier alone: {signed(gap)} ({said}).")
    left = study.difference(best, defence_study.OPEN, "ms_ssim")
    lines.append(f"The strongest, minus the undefended attack: {signed(left)} ({in_words(left, 'ms_ssim')}).")
    plain, defended = (study.rows[label]["accuracy"] for label in (defence_study.OPEN, "shuffle"))
    cost = "nothing" if abs(plain[0] - defended[0]) < 1e-9 else "something"
    return [*lines, f"It costs the server {cost}: accuracy {plain[0]:.1%} without, {defended[0]:.1%} with it."]


# -- recorded: dropped -------------------------------------------------------------------------------------------------

DROPPED: Series = {
    "shuffled": [("shuffle", "unaware"), ("shuffle, reorder", "reorder")],
    "dropped, unaware": [(f"drop:{share}", "") for share in SHARES],
    "dropped, masked": [(f"drop:{share}, mask", f"{share:g}") for share in SHARES],
    "dropped and shuffled": [
        ("drop:0.5+shuffle", "unaware"),
        ("drop:0.5+shuffle, reorder", "reorder"),
        ("drop:0.5+shuffle, placed", "placed"),
    ],
    "dropped, masked, trained server": [("drop:0.5, mask, trained server", "0.5")],
}

AFTER_DROPPING = {f"drop:{s}": [f"drop:{s}, {reply}" for reply in ("mask", "inverse network")] for s in SHARES} | {
    "drop:0.5+shuffle": [f"drop:0.5+shuffle, {reply}" for reply in (*AFTER_DROP, "inverse network")]
}


def dropped(study: Study, metric: str) -> Figure:
    """A metric over the server's accuracy, for shuffled and for dropped tokens."""
    return against_accuracy(study, DROPPED, metric)


def dropped_in_words(study: Study) -> list[str]:
    """Sentences: what masking is worth, what dropping costs, and whether the masking attacker keeps half."""
    shares = [s for s in SHARES if {f"drop:{s}", f"drop:{s}, mask"} <= set(study.rows)]
    gains = {s: in_words(study.difference(f"drop:{s}, mask", f"drop:{s}", "ms_ssim"), "ms_ssim") for s in shares}
    if not shares:
        return []
    if set(gains.values()) == {"not told apart"}:
        lines = ["Masking makes no difference that could be told from chance at any share, as derived above."]
    else:
        lines = ["Masking, beside not: " + "; ".join(f"{s:.0%} {word}" for s, word in gains.items()) + "."]
    for s in shares:
        cost = study.rows[defence_study.OPEN]["accuracy"][0] - study.rows[f"drop:{s}"]["accuracy"][0]
        lines.append(
            f"{s:.0%} dropped costs {100 * cost:.1f} points of accuracy. The masking attacker keeps more than half of what the "
            f"undefended attack gains over the prior alone in MS-SSIM: {keeps_half(study, f'drop:{s}, mask')}."
        )
    return lines


# -- recorded: less, and turned ----------------------------------------------------------------------------------------

SHORTER = {
    "largest numbers": [(f"topk:{share}", "visible", f"{share:g}") for share in TOPK],
    "low rank": [(f"lowrank:{rank}", "projected", f"rank {rank}") for rank in RANKS],
    "few bits": [(f"quantise:{bits}", "", f"{bits} bit") for bits in BITS],
}


def _stronger(study: Study) -> Series:
    """Of the rows without and with the reply, the one of higher mean MS-SSIM, for every shorter message that was recorded."""
    series: dict[str, list[tuple[str, str]]] = {}
    for name, family in SHORTER.items():
        for recipe, reply, text in family:
            labels = [label for label in (recipe, f"{recipe}, {reply}") if label in study.rows]
            if labels:
                best = max(labels, key=lambda label: study.rows[label]["ms_ssim"]["mean"])
                series.setdefault(name, []).append((best, text))
    return series


def shorter(study: Study, metric: str) -> Figure:
    """A metric over the server's accuracy for shorter messages, against the stronger attacker."""
    return against_accuracy(study, _stronger(study), metric)


def lengths(study: Study) -> pages.Table:
    """What each shorter message costs, and what the stronger attacker keeps."""
    plain = study.rows[defence_study.OPEN]["accuracy"][0]
    rows = []
    for label in (label for family in _stronger(study).values() for label, _ in family):
        row = study.rows[label]
        cost = f"{100 * (plain - row['accuracy'][0]):.1f} points"
        rows.append([label, cost, row["ms_ssim"]["mean"], keeps_half(study, label)])
    return pages.table(["stronger attacker", "costs", "MS-SSIM", "keeps half"], rows)


def lengths_in_words(study: Study) -> Line:
    """Which shorter messages take more than half, and for how much accuracy."""
    stops = [f"{row[0]} (for {row[1]})" for row in lengths(study).rows if row[-1] == "no"]
    return Line(f"Takes more than half from the stronger attacker: {', '.join(stops) or 'none of them'}.")


def turned(study: Study, metric: str) -> Figure:
    """Every attacker of secret bases, between the undefended attack and the prior alone."""
    hiding = [label for label in study.rows if label.partition(",")[0] in SECRET]
    return _intervals(study, [defence_study.OPEN, *hiding, defence_study.PRIOR], metric)


def turned_in_words(study: Study) -> list[str]:
    """Sentences: secrets read off the weights against no defence, and the attack that does without the weights."""
    lines = []
    for recipe in SECRET:
        if f"{recipe}, undo" in study.rows:
            gap = study.difference(f"{recipe}, undo", defence_study.OPEN, "ms_ssim")
            equal = "as if there were no defence" if abs(gap.mean) < 0.02 else "not quite as without the defence"
            lines.append(f"{recipe}, read off the weights: {gap.mean:+.3f} of MS-SSIM against undefended, {equal}.")
    label = "rotate, token gram"
    if label not in study.rows:
        return lines
    others = {"unaware": "rotate", "the prior alone": defence_study.PRIOR, "undefended": defence_study.OPEN}
    for what, other in others.items():
        gap = study.difference(label, other, "ms_ssim")
        lines.append(f"Cosines between tokens, against {what}: {signed(gap)} ({in_words(gap, 'ms_ssim')}).")
    if study.difference(label, defence_study.PRIOR, "ms_ssim").low <= 0:
        lines.append(
            "It is not told apart from guessing without a message: in these few turns it does not find its way."
        )
    return [*lines, f"Keeps more than half: {keeps_half(study, label)}."]


STATEMENTS = (
    "shuffle-defeats-plain-attack",
    "shuffle-reorder-recovers",
    "drop-tokens",
    "shuffle-insufficient",
    *(f"{recipe}-insufficient" for recipe in SECRET),
)


def paper_in_words() -> list[str]:
    """Sentences: how many of the statements about the paper's section on shuffling hold here."""
    known = [claim for claim in pages.recorded("claims") or [] if claim["id"] in STATEMENTS]
    theirs = [claim for claim in known if claim["source"].startswith(PAPER)]
    if not theirs:
        return ["None of the statements about section 5.5 has been measured here yet."]
    failing = [claim["id"] for claim in theirs if not claim["holds"]]
    return [
        f"Of {len(theirs)} statements about section 5.5, {len(theirs) - len(failing)} hold here.",
        f"Failing: {', '.join(failing)}." if failing else "None fails at this scale.",
    ]
