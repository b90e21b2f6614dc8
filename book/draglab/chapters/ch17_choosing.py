"""Chapter 17, choosing a defence: all recorded defences, unaware beside strongest attacker; choices; an audit card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from dragkit.adaptive.replies import REPLIES
from dragkit.measures import metrics
from dragkit.measures.intervals import Interval
from dragkit.methods import METHODS
from draglab import frontier
from draglab.chapters.tradeoff import ATTACK
from draglab.frontier import Point
from draglab.pages import pages, plots
from draglab.pages.study import Line, sentences, study
from draglab.studies import defence_study

METRIC = "st_lpips"

NOTHING = Line("No study has been recorded here, so there is nothing to show.")

PAPER = {
    "DISCO is not enough": "disco-insufficient",
    "NoPeek is not enough": "nopeek-insufficient",
    "re-ordering undoes shuffling": "shuffle-reorder-recovers",
}
"""What the paper says of defences -> the claim that tests it."""


def three_attackers_in_words(far: Mapping[str, float]) -> Line:
    """How far, in ST-LPIPS, the live attackers stay from the photo: who -> distance, the unaware one first."""
    first, best = next(iter(far)), min(far, key=far.__getitem__)
    verdict = "On this photo knowing more did not bring any attacker much nearer."
    if far[best] < far[first] / 2:
        verdict = "Judged by the first attacker the defence looks good. Judged by the strongest it is hardly one."
    return sentences(
        [
            f"ST-LPIPS of the attacker who does not know: {far[first]:.3f}. Of the strongest ({best}): {far[best]:.3f}.",
            verdict,
        ]
    )


# -- what was recorded ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Defences:
    """All recorded attacks on defences.

    Attributes:
        everything: every attack.
        plain: the attack without a defence.
        unaware: defence -> DRAG of an attacker who does not know of it.
        strongest: defence -> the strongest attacker who hears one message.
    """

    everything: list[Point]
    plain: Point
    unaware: dict[str, Point]
    strongest: dict[str, Point]

    @property
    def both(self) -> list[str]:
        """The defences that were attacked both ways."""
        return [name for name in self.unaware if name in self.strongest]

    @property
    def ranked(self) -> list[Point]:
        """The strongest attacks, those on the cheapest defences first."""
        return sorted(self.strongest.values(), key=lambda point: frontier.lost(point, self.plain).mean)


def gather() -> Defences | None:
    """What the studies recorded; None where none did."""
    everything = frontier.gather()
    plain = frontier.undefended(everything)
    if plain is None:
        return None
    return Defences(everything, plain, frontier.unaware(everything), frontier.worst_attack(everything))


def origins(defences: Defences | None) -> Line:
    """Where every study comes from, and how much they hold together."""
    lines = [f"{name}: {study(name).origin.text}" for name in frontier.STUDIES]
    if defences:
        names = {point.defence for point in defences.everything if point is not defences.plain}
        lines.append(
            f"Recorded here: {len(defences.everything)} attacks on {len(names)} defences. DRAG is {ATTACK} in all of them."
        )
    return sentences(lines)


# -- accuracy against what leaks -----------------------------------------------------------------------------------------


def unaware_figure(defences: Defences | None) -> Figure | Line:
    """Accuracy against ST-LPIPS of the unaware attacker."""
    return _tradeoff(defences, defences.unaware) if defences else NOTHING


def strongest_figure(defences: Defences | None) -> Figure | Line:
    """The same for the strongest attacker, with the same axes."""
    return _tradeoff(defences, defences.strongest) if defences else NOTHING


def _tradeoff(defences: Defences, attacks: Mapping[str, Point]) -> Figure:
    points = over_accuracy(defences, [attacks[name] for name in defences.both])
    return plots.tradeoff(**points, xlabel="accuracy of the server", ylabel=metrics.LABELS[METRIC])


def over_accuracy(defences: Defences, attacks: Sequence[Point]) -> dict[str, Any]:
    """Arguments of `plots.tradeoff`: points by family, names for those that nothing beats, axes that fit both figures."""
    unbeaten = {point.defence for point in frontier.frontier(attacks, METRIC)}
    series: dict[str, list[tuple[Interval, Interval, str]]] = {}
    for point in attacks:
        name = point.defence if point.defence in unbeaten else ""
        series.setdefault(point.family, []).append((point.accuracy, point.leaks[METRIC], name))
    shown = [
        defences.plain,
        *(known[name] for known in (defences.unaware, defences.strongest) for name in defences.both),
    ]
    accuracies = [end for point in shown for end in point.accuracy]
    distances = [end for point in shown for end in point.leaks[METRIC]]
    levels = {"undefended": defences.plain.leaks[METRIC].mean}
    if prior := frontier.references().get(defence_study.PRIOR):
        levels[defence_study.PRIOR] = prior[METRIC].mean
    top = max(*distances, *levels.values())
    limits = (min(accuracies) - 0.02, max(accuracies) + 0.02), (min(distances) - 0.02, top + 0.06)
    return {"points": series, "levels": levels, "limits": limits}


def frontier_in_words(defences: Defences | None) -> Line:
    """Which defences nothing beats, for an unaware attacker and for the strongest."""
    if not defences:
        return Line("No study has been recorded here, so this page has no figure and no verdict.")
    before, after = (
        [point.defence for point in frontier.frontier([attacks[name] for name in defences.both], METRIC)]
        for attacks in (defences.unaware, defences.strongest)
    )
    fell = [name for name in before if name not in after]
    return sentences(
        [
            f"Not beaten when the attacker is unaware: {', '.join(before)}.",
            f"Not beaten when they are the strongest that was tried: {', '.join(after)}.",
            f"On the frontier by flattery alone: {', '.join(fell)}." if fell else "No defence fell off the frontier.",
        ]
    )


def flattery(defences: Defences) -> dict[str, Interval]:
    """Defence -> how much closer its strongest attacker gets than the unaware one; only where any does, the most first."""
    gains = {
        name: frontier.flattery(defences.unaware[name], defences.strongest[name], METRIC) for name in defences.both
    }
    return dict(sorted(((name, gap) for name, gap in gains.items() if gap.mean > 0), key=lambda item: -item[1].mean))


def flattery_figure(defences: Defences | None) -> Figure | Line:
    """A dot with its interval per defence: ST-LPIPS of the unaware attacker minus that of the strongest."""
    gains = flattery(defences) if defences else {}
    return plots.intervals(gains, "ST-LPIPS, unaware minus strongest") if gains else NOTHING


def flattery_in_words(defences: Defences | None) -> Line:
    """For how many defences the difference is clear, where it is largest, and where there is none."""
    if not defences:
        return NOTHING
    gains = flattery(defences)
    clear = [name for name, gap in gains.items() if gap.low > 0]
    same = [name for name in defences.both if name not in gains]
    lines = [
        f"{len(defences.both)} defences were attacked both ways. "
        f"For {len(clear)} the interval of the difference excludes 0."
    ]
    for name, gap in list(gains.items())[:1]:
        lines.append(f"Most flattered: {name}, by {span(gap, 3)} in ST-LPIPS.")
    lines.append(f"Where no adaptive attacker did better than the unaware one: {', '.join(same) or 'nowhere'}.")
    return sentences(lines)


# -- every defence -------------------------------------------------------------------------------------------------------


def span(interval: Interval, digits: int = 2) -> str:
    """Mean and 95 % interval in few characters."""
    return f"{interval.mean:.{digits}f} ({interval.low:.{digits}f} to {interval.high:.{digits}f})"


def costs_table(defences: Defences | None) -> pages.Table | Line:
    """One row per defence: accuracy lost, and what the server must be told."""
    if not defences:
        return NOTHING
    rows = []
    for point in defences.ranked:
        mean, low, high = (100 * value for value in frontier.lost(point, defences.plain))
        rows.append([point.defence, f"{mean:+.1f} ({low:+.1f} to {high:+.1f})", point.server_knows, point.utility])
    return pages.table(["defence", "accuracy lost (points)", "the server must know", "answer"], rows)


def leaks_table(defences: Defences | None) -> pages.Table | Line:
    """One row per defence: MS-SSIM and ST-LPIPS of the unaware attacker and of the strongest."""
    if not defences:
        return NOTHING
    plain = defences.plain
    rows = [[plain.defence, "-", "-", span(plain.leaks["st_lpips"]), "-", span(plain.leaks["ms_ssim"])]]
    for point in defences.ranked:
        name = point.defence
        rows.append(
            [name, attacker(point), *_both_ways(defences, name, "st_lpips"), *_both_ways(defences, name, "ms_ssim")]
        )
    header = ["defence", "strongest attacker", "ST-LPIPS unaware", "strongest", "MS-SSIM unaware", "strongest"]
    return pages.table(header, rows)


def retrieval_table(defences: Defences | None) -> pages.Table | Line:
    """One row per defence: how often the photo is found first among 1,000."""
    if not defences:
        return NOTHING
    rows = [[defences.plain.defence, "-", span(defences.plain.leaks["retrieval_top1"])]]
    rows += [[point.defence, *_both_ways(defences, point.defence, "retrieval_top1")] for point in defences.ranked]
    return pages.table(["found first among 1,000 photos", "unaware", "strongest"], rows)


def _both_ways(defences: Defences, name: str, measure: str) -> tuple[str, str]:
    """The unaware attacker's value and the strongest one's."""
    first = span(defences.unaware[name].leaks[measure]) if name in defences.unaware else "not tried"
    return first, span(defences.strongest[name].leaks[measure])


def attacker(point: Point) -> str:
    """Method and reply of an attacker, in words."""
    reply = REPLIES[point.reply].label if point.reply else "no reply"
    return reply if point.method == "drag" else f"{METHODS[point.method].label}, {reply}"


def _attempt(point: Point) -> str:
    """The same with the settings of DRAG and the number of messages."""
    method = f"{ATTACK}, " if point.method == "drag" else ""
    return f"{method}{attacker(point)}, {point.queries} message(s)"


# -- what the paper says -------------------------------------------------------------------------------------------------


def verdicts(*claims: str) -> Line:
    """What was measured of claims."""
    return sentences(map(pages.verdict, claims))


def paper_in_words() -> Line:
    """How many of the paper's statements were tested, and which do not hold here."""
    measured = {claim["id"]: claim for claim in pages.recorded("claims") or []}
    tested = {what: measured[id_]["holds"] for what, id_ in PAPER.items() if id_ in measured}
    failed = [what for what, holds in tested.items() if not holds]
    return sentences(
        [
            f"Of the {len(PAPER)} statements {len(tested)} have been tested here, and {sum(tested.values())} hold.",
            *(f"Not at this scale, or not with these attackers: {what}." for what in failed),
        ]
    )


# -- choosing ------------------------------------------------------------------------------------------------------------


def choices(defences: Defences | None, budgets: Iterable[int] = (0, 1, 2, 5, 10)) -> dict[int, Point]:
    """Points of accuracy to spare -> the defence that leaks least to the strongest attacker; budgets that none meets are left out.

    Controls are not chosen.
    """
    if not defences:
        return {}
    candidates = [point for point in defences.strongest.values() if not point.control]
    options = {points: frontier.affordable(candidates, defences.plain, points / 100) for points in budgets}
    return {points: affordable[0] for points, affordable in options.items() if affordable}


def choices_table(chosen: Mapping[int, Point]) -> pages.Table | Line:
    """One row per budget: the defence, what the server must be told, and what leaks."""
    rows = [
        [
            f"{points} points",
            best.defence,
            best.server_knows,
            *(span(best.leaks[m]) for m in (METRIC, "ms_ssim", "retrieval_top1")),
        ]
        for points, best in chosen.items()
    ]
    header = ["to spare", "leaks least", "the server must know", "ST-LPIPS", "MS-SSIM", "found first"]
    return pages.table(header, rows) if rows else NOTHING


def choices_in_words(chosen: Mapping[int, Point]) -> Line:
    """Whether the attacker is closer than the prior alone, behind the defence of each budget."""
    prior = frontier.references().get(defence_study.PRIOR)
    if not prior or not chosen:
        return NOTHING
    lines = []
    for points, best in chosen.items():
        if best.leaks[METRIC].high < prior[METRIC].low:
            seen = f"even behind {best.defence} the attacker is closer to the photo than the prior alone."
        else:
            seen = f"behind {best.defence} the attacker is not told apart from the prior alone, with these photos."
        lines.append(f"{points} points: {seen}")
    return sentences(lines)


def messages_table(defences: Defences | None) -> pages.Table | Line:
    """The defences whose strongest attacker hears more than one message, beside the strongest who hears one."""
    often = frontier.worst_attack(defences.everything, queries=None) if defences else {}
    rows = [
        [name, point.queries, span(defences.strongest[name].leaks[METRIC]), span(point.leaks[METRIC])]
        for name, point in often.items()
        if defences and point.queries > 1 and name in defences.strongest
    ]
    if not rows:
        return Line(
            "No attack that hears more than one message is stronger than one that hears one, or none has been recorded here."
        )
    return pages.table(["defence", "messages of a photo", "ST-LPIPS, one message", "ST-LPIPS, that many"], rows)


# -- an audit card -------------------------------------------------------------------------------------------------------


def audit_card(defences: Defences | None, pick: Point | None, h_shape: Sequence[int]) -> pages.Table | Line:
    """What the recorded studies can fill in for a choice.

    Args:
        defences: all recorded attacks.
        pick: the strongest attack on the chosen defence.
        h_shape: of the client's message.
    """
    if not defences or not pick:
        return Line("No study has been recorded here, so the card stays empty.")
    lines = study(pick.study)["provenance"]
    tried = [point for point in defences.everything if point.key == pick.key]
    ms_ssim = sorted(pick.per_photo["ms_ssim"])
    worst = ms_ssim[-max(1, len(ms_ssim) // 20)]
    references = "; ".join(f"{name}: {span(row['ms_ssim'])}" for name, row in frontier.references().items())
    card = {
        "1 System": f"{pick.client}, cut at {defence_study.AT}, message {tuple(h_shape)}",
        "2 Threat model": f"weights and public photos; the defence: {'known' if pick.adaptive else 'not used'}",
        "3 Data": f"{len(ms_ssim)} validation photos of Imagenette, 64 x 64",
        "4 Defence": f"{pick.defence}; the server must know: {pick.server_knows}",
        "5 Utility": f"accuracy {span(pick.accuracy, 3)}, without {span(defences.plain.accuracy, 3)}",
        "6 Attacks": "; ".join(map(_attempt, tried)),
        "7 Reconstruction": f"MS-SSIM {span(pick.leaks['ms_ssim'])}, in the worst 5 % of photos at least {worst:.2f}",
        "8 Identification": f"{span(pick.leaks['retrieval_top1'])} of 1,000; chance 0.001",
        "9 Meaning": "not tested",
        "10 Guarantee": "none from these runs",
        "11 Repeated queries": "tested" if any(point.queries > 1 for point in tried) else "not tested",
        "12 References": references,
        "13 Examples": "not shown here",
        "14 Verdict": "no thresholds were fixed before, so there is none",
        "15 Repeat": f"{lines['command']}, commit {lines['commit']}, seeds {lines['seeds']}, {lines['date']}",
    }
    return pages.table(["field", "entry"], list(card.items()))
