"""Chapter 14, DISCO: counts of gains, the judges of a mask, and tables and sentences from the recorded study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from dragkit import zoo
from dragkit.adaptive.replies import REPLIES
from dragkit.measures.intervals import Interval
from draglab.chapters.tradeoff import ATTACK
from draglab.pages import pages
from draglab.pages.study import Line, Study, in_words, leaks_in_words, sentences, signed
from draglab.studies import defence_study
from draglab.studies.disco import SHIPPED

METRIC = "ms_ssim"

Judge = tuple[float, int] | None
"""PSNR (dB) and the number of photos on which it was measured; None where it was not."""


def client_in_words(trained: bool) -> Line:
    """How the shipped client was trained, or that it is not here."""
    if trained:
        return Line(f"{SHIPPED} was trained with `{zoo.card(SHIPPED)['command']}`.")
    return Line(
        f"Not available: {SHIPPED}. `dragkit train disco --ship` makes it; the cells below use random gains meanwhile."
    )


# -- gains and distances ------------------------------------------------------------------------------------------------


def gains_in_words(gains: Tensor) -> Line:
    """How many gains of two photos, `(2, channels)`, are low, and how many of those are 0 in float32."""
    low, zero = gains < 0.5, gains == 0
    gone = float(zero.sum() / low.sum())
    lines = [
        f"Turned below one half: {low.sum(1).tolist()} of {gains.shape[1]} channels; {int((low[0] & low[1]).sum())} of "
        "them in both photos.",
        f"Exactly 0 in float32: {zero.sum(1).tolist()}. Smallest other gain: {gains[gains > 0].min():.1e}.",
        f"Of the channels that were turned down, {gone:.0%} are gone in float32, the others are there and quiet.",
    ]
    if gone > 0.5:
        lines.append("So this soft mask is mostly a hard one, by the spread of its scores and not by its formula.")
    return sentences(lines)


def silent_channels(arrivals: Mapping[str, Tensor]) -> dict[str, float]:
    """Label of an arrival, tokens `(B, N, C)` -> how many of its channels are 0 in every token, mean over photos."""
    return {label: float((arrived == 0).all(1).sum(1).float().mean()) for label, arrived in arrivals.items()}


def arrivals_table(measured: Mapping[str, Mapping[str, float]], silent: Mapping[str, float]) -> pages.Table:
    """One row per arrival, with each distance between the photo's own message and it, and its silent channels."""
    header = ["the photo's own message, received", *next(iter(measured.values())), "silent channels"]
    return pages.table(header, [[label, *row.values(), f"{silent[label]:.1f}"] for label, row in measured.items()])


def arrivals_in_words(measured: Mapping[str, Mapping[str, float]], silent: Mapping[str, float]) -> Line:
    """What the soft mask does to two distances, and which arrivals the channel-wise one does notice."""
    soft = measured["soft mask"]
    worse = [label for label, row in measured.items() if row["channel by channel"] > 1e-3]
    rounding = ": rounding." if soft["channel by channel"] < 1e-4 else "."
    return sentences(
        [
            f"The soft mask puts {soft['token by token']:.3f} between a message and itself, token by token, and "
            f"{soft['channel by channel']:.1e}, channel by channel{rounding}",
            f"Silent channels: {silent['soft mask']:.0f} with the soft mask, {silent['hard mask']:.0f} with the hard one.",
            f"Channel by channel, more than rounding is left by: {', '.join(worse) or 'none of them'}.",
        ]
    )


# -- who judges a mask ---------------------------------------------------------------------------------------------------


def adversary(recorded: Study) -> Judge:
    """What the adversary of the training reported of the shipped client."""
    return _measured(recorded, SHIPPED, "adversary_psnr")


def new_network(recorded: Study) -> Judge:
    """What an inverse network reads that was trained afterwards on defended messages."""
    return _measured(recorded, zoo.inverse_name(SHIPPED, defence_study.AT, "disco"), "psnr")


def _measured(recorded: Study, model: str, key: str) -> Judge:
    for row in recorded.rows.values():
        if value := row.get("models", {}).get(model, {}).get("measured", {}).get(key):
            return value["value"], value["n"]
    return None


def judges_table(recorded: Study) -> pages.Table:
    """PSNR in the eyes of the training's adversary, of a new network, and of one for the client without DISCO."""
    plain = zoo.card(zoo.inverse_name(zoo.CLIENT, defence_study.AT))["measured"]["psnr"]
    judges: dict[str, Judge] = {
        "the adversary of the training": adversary(recorded),
        "a new inverse network, same messages": new_network(recorded),
        "inverse network, client without DISCO": (plain["value"], plain["n"]),
    }
    rows = [[who, f"{seen[0]:.1f}", seen[1]] if seen else [who, "not available", "-"] for who, seen in judges.items()]
    return pages.table(["who looks", "PSNR (dB)", "validation photos"], rows)


def judges_in_words(recorded: Study) -> Line:
    """Whether the adversary of the training overstated the privacy."""
    inside, outside = adversary(recorded), new_network(recorded)
    if not inside or not outside:
        return Line(pages.missing(recorded.name))
    gap = outside[0] - inside[0]
    verdict = "its report overstated the privacy." if gap > 0 else "here the adversary was no worse a judge."
    return Line(
        f"A new network reads {abs(gap):.1f} dB {'more' if gap > 0 else 'less'} from the same messages than the "
        f"adversary: {verdict}"
    )


# -- attacks: live and recorded -----------------------------------------------------------------------------------------


def attacks_in_words(similarity: Mapping[str, Tensor]) -> Line:
    """Mean MS-SSIM of the live attacks, and whether the channel-wise comparison helps."""
    mean = {label: float(values.mean()) for label, values in similarity.items()}
    lines = [f"Mean MS-SSIM: {', '.join(f'{label} {value:.2f}' for label, value in mean.items())}."]
    if "soft mask" in mean:
        helps = mean["soft mask, channel by channel"] > mean["soft mask"]
        lines.append(f"On these two photos, comparing channel by channel {'helps' if helps else 'does not help'}.")
    else:
        lines.append(f"Not available: {SHIPPED}. So there is nothing to attack here but the undefended client.")
    return sentences(lines)


def replies_table(recorded: Study) -> pages.Table:
    """What every known reply to every mask gains over the unaware attacker, photo by photo."""
    table = []
    for label, row in recorded.rows.items():
        base = label.rpartition(", ")[0]
        if not row.get("reply") or base not in recorded.rows or row["reply"] == "retrained":
            continue
        gap = recorded.difference(label, base, METRIC)
        reply = REPLIES[row["reply"]].label
        table.append([base, reply, row[METRIC]["mean"], signed(gap), in_words(gap, METRIC)])
    return pages.table(["mask", "reply", "MS-SSIM", "minus the unaware attacker's", "by its interval"], table)


def strongest_by_mask(recorded: Study) -> dict[str, str]:
    """Mask -> the row of its strongest DRAG attacker."""
    groups: dict[str, list[str]] = {}
    for label, row in recorded.rows.items():
        if row.get("method") == "drag" and label != defence_study.OPEN:
            groups.setdefault(label.partition(", ")[0], []).append(label)
    return {mask: defence_study.strongest(recorded.rows, tried) for mask, tried in groups.items()}


def masks_table(recorded: Study) -> pages.Table:
    """One row per mask: accuracy, what the strongest attacker gets, and how that compares with random channels."""
    strongest, table = strongest_by_mask(recorded), []
    for mask, label in strongest.items():
        row, chance = recorded.rows[label], strongest.get("disco-random")
        compared = "-"
        if chance and label != chance:
            compared = leaks_in_words(recorded.difference(label, chance, METRIC), METRIC)
        measured = [row[metric]["mean"] for metric in (METRIC, "st_lpips")]
        first = f"{row['retrieval_top1'][0]:.0%}"
        table.append([mask, f"{row['accuracy'][0]:.1%}", row["reply"] or "unaware", *measured, first, compared])
    header = ["mask", "accuracy", "strongest reply", "MS-SSIM", "ST-LPIPS", "found among 1,000", "than random channels"]
    return pages.table(header, table)


def retrainings_table(recorded: Study) -> pages.Table | Line:
    """What was changed in each training, and what that did to accuracy and leakage."""
    strongest, table = strongest_by_mask(recorded), []
    base = recorded.rows[strongest["disco"]]
    for label in strongest.values():
        row = recorded.rows[label]
        if row["client"] in (SHIPPED, zoo.CLIENT):
            continue
        gap = recorded.difference(label, strongest["disco"], METRIC)
        changed = defence_study.changed(row["models"][row["client"]], base["models"][SHIPPED])
        points = f"{100 * (row['accuracy'][0] - base['accuracy'][0]):+.1f}"
        table.append([changed, points, signed(gap), leaks_in_words(gap, METRIC)])
    if not table:
        return Line("No other training has been recorded here.")
    return pages.table(["changed in the training", "accuracy, points", "MS-SSIM", "by its interval"], table)


def findings(recorded: Study) -> Line:
    """The recorded comparisons in sentences."""
    return sentences([*_masks(recorded), *_against_no_mask(recorded), *_inverse_network(recorded)])


def _masks(recorded: Study) -> Iterator[str]:
    strongest = strongest_by_mask(recorded)
    for a, b, what in (
        ("disco-hard", "disco", "A hard mask beside the soft one"),
        ("disco-static", "disco", "One mask for all messages beside one for each"),
        ("disco-random", "disco", "Random channels beside learned ones"),
    ):
        if a not in strongest or b not in strongest:
            yield f"{what}: not recorded."
            continue
        gap = recorded.difference(strongest[a], strongest[b], METRIC)
        ours, theirs = (recorded.rows[strongest[mask]]["accuracy"][0] for mask in (a, b))
        yield f"{what}: {leaks_in_words(gap, METRIC)} {_bracket(gap)}, accuracy {100 * (ours - theirs):+.1f} points."


def _against_no_mask(recorded: Study) -> Iterator[str]:
    strongest = strongest_by_mask(recorded)
    if "no mask" in recorded.rows and "disco" in strongest:
        gap = recorded.difference(strongest["disco"], "no mask", METRIC)
        seen = {"better": "more than without a mask", "worse": "less than without a mask"}
        lines = seen.get(in_words(gap, METRIC), "as much as without a mask, or the difference is not seen")
        yield f"The strongest {ATTACK} gets {lines}: {gap.mean:+.3f}."


def _inverse_network(recorded: Study) -> Iterator[str]:
    strongest, network = strongest_by_mask(recorded), "disco, inverse network"
    if network not in recorded.rows or "disco" not in strongest:
        return
    gap, quality = recorded.difference(network, strongest["disco"], "st_lpips"), recorded.rows[network]["psnr"]
    first = {"better": "closer than", "worse": "further than"}.get(in_words(gap, "st_lpips"), "not told apart from")
    yield (
        f"The retrained inverse network is {first} the strongest {ATTACK} in ST-LPIPS ({gap.mean:+.3f}). Its PSNR is "
        f"{quality['mean']:.1f} dB ({quality['ci'][0]:.1f} to {quality['ci'][1]:.1f})."
    )
    if inside := adversary(recorded):
        below = quality["ci"][0] > inside[0]
        seen = "below that interval: it overstated the privacy." if below else "not below that interval."
        yield f"The adversary of the training reported {inside[0]:.1f} dB, {seen}"


def _bracket(gap: Interval) -> str:
    return f"({gap.mean:+.3f}, {gap.low:+.3f} to {gap.high:+.3f})"
