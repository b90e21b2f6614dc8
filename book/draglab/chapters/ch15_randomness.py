"""Chapter 15, randomness: where shapes put their noise; tables, figures and sentences from the recorded study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from dragkit.defenses.shaped import Factors
from dragkit.measures.intervals import Interval
from draglab.chapters.tradeoff import ATTACK
from draglab.pages import pages, plots
from draglab.pages.study import Line, Study, leaks_in_words, sentences

METRIC = "ms_ssim"


# -- shapes of noise -----------------------------------------------------------------------------------------------------


def random_covariances(count: int, generator: torch.Generator) -> Tensor:
    """Random covariances `(count, 8, 8)`, float64, with a wide spectrum."""
    root = torch.randn(count, 8, 8, generator=generator, dtype=torch.float64) * torch.logspace(-1, 1, 8)
    return root @ root.mT + 0.01 * torch.eye(8)


def directions_in_words(leak: Tensor, need: Tensor) -> Line:
    """Whether the server leans on the directions that leak most.

    Args:
        leak: share of the leakage along each direction, `(directions,)`, the largest first.
        need: share of what the server needs along the same ones.
    """
    half = len(leak) // 2
    shown, used = float(leak[:half].sum()), float(need[:half].sum())
    verdict = "The server needs them as much as the photo shows in them: shaping can gain little."
    if shown > used:
        verdict = (
            "The server leans on them less than the photo does: there is something to gain from shaping the noise."
        )
    return sentences(
        [f"The {half} directions that leak most carry {shown:.0%} of the leakage and {used:.0%} of the need.", verdict]
    )


def shapes_table(factors: Factors, shapes: Mapping[str, Tensor]) -> pages.Table:
    """Predicted cost and leakage of covariances `(2, D, D)`, the first of them isotropic."""
    plain = factors.leak(shapes["isotropic"])
    rows = [[name, factors.cost(shape) / 2, factors.leak(shape) / plain] for name, shape in shapes.items()]
    return pages.table(["noise", "predicted cost (nats)", "leakage, isotropic = 1"], rows)


def variances_figure(directions: Tensor, shapes: Mapping[str, Tensor]) -> Figure:
    """Variance of each shape, for patch tokens, along the columns of `directions` `(D, D)`; isotropic noise has 1."""
    variance = {name: (directions * (shape[-1] @ directions)).sum(0) for name, shape in shapes.items()}
    return plots.curves(
        {name: values / variance["isotropic"] for name, values in variance.items()},
        range(1, directions.shape[1] + 1),
        xlabel="direction, by leakage",
        ylabel="variance, isotropic = 1",
        log=True,
    )


def cls_table(factors: Factors, shapes: Mapping[str, Tensor]) -> pages.Table:
    """How much of each shape's cost, and of its variance, falls on CLS."""
    rows = []
    for name, shape in shapes.items():
        share = float((factors.need[0] @ shape[0]).trace()) * float(factors.tokens[0]) / factors.cost(shape)
        rows.append([name, share, float(shape[0].trace() / shapes["isotropic"][0].trace())])
    return pages.table(["noise", "share of the cost on CLS", "mean variance on CLS, isotropic = 1"], rows)


def costs_in_words(costs: Sequence[tuple[float, float, dict[str, float]]]) -> Line:
    """How well the prediction holds: (strength, predicted cost, kind of noise -> measured cost), one per strength."""
    ratios = [measured / predicted for _, predicted, by_kind in costs for measured in by_kind.values()]
    apart = max(max(by_kind.values()) / min(by_kind.values()) for _, _, by_kind in costs)
    return sentences(
        [
            f"Measured over predicted lies between {min(ratios):.2f} and {max(ratios):.2f} over these strengths.",
            f"Noises of equal predicted cost differ by up to a factor of {apart:.1f} in measured cost.",
        ]
    )


def bias_in_words(away: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Line:
    """Whether averaged messages are nearer to the mean of instances than to the plain client.

    Args:
        away: mechanism -> distances to the plain client's IR and to the mean of instances, for growing numbers of messages.
    """
    lines = []
    for name, (plain, mean) in away.items():
        closer = "closer to" if mean[-1] < plain[-1] else "no closer to"
        lines.append(
            f"{name}: the mean of 16 messages is {closer} the mean of instances than to the plain client "
            f"({mean[-1]:.2f} against {plain[-1]:.2f} of the IR's spread)."
        )
    return sentences(lines)


# -- recorded: equal accuracy --------------------------------------------------------------------------------------------


def mechanisms(recorded: Study) -> list[str]:
    """The mechanisms that were made equally dear."""
    return [label.removesuffix(", 1") for label in recorded.rows if label.endswith(", 1")]


def message_counts(recorded: Study) -> list[int]:
    """The numbers of messages that attackers heard about each photo."""
    return sorted({row["queries"] for row in recorded.rows.values() if "queries" in row})


def heard(recorded: Study, count: int) -> list[str]:
    """The mechanisms that were attacked with so many messages."""
    return [name for name in mechanisms(recorded) if f"{name}, {count}" in recorded.rows]


def repeated(recorded: Study) -> list[str]:
    """The mechanisms that were attacked with every number of messages."""
    counts = message_counts(recorded)
    return [name for name in mechanisms(recorded) if all(f"{name}, {count}" in recorded.rows for count in counts)]


def losses(recorded: Study) -> dict[str, Interval]:
    """Mechanism -> accuracy lost on the whole validation split, in points."""
    rows = {name: recorded.rows[f"{name}, 1"] for name in mechanisms(recorded)}
    return {name: Interval(*(100 * value for value in row["lost"])) for name, row in rows.items()}


def allowance_in_words(recorded: Study) -> Line:
    """How much accuracy each mechanism may lose."""
    return Line(
        f"Accuracy that each mechanism may lose on the photos where its strength is chosen: {recorded['lost']:.0%}."
    )


def losses_figure(recorded: Study) -> Figure:
    """A dot with its interval per mechanism and strength: accuracy lost."""
    strengths = {name: recorded["strengths"][name.partition("+")[0]] for name in mechanisms(recorded)}
    lost = losses(recorded)
    return plots.intervals({f"{name} ({strengths[name]:.2f})": lost[name] for name in lost}, "accuracy lost (points)")


def losses_in_words(recorded: Study) -> Line:
    """Whether the comparison is fair, as far as the losses tell."""
    lost = losses(recorded).values()
    if max(loss.low for loss in lost) <= min(loss.high for loss in lost):
        return Line(
            "The intervals have a value in common: the mechanisms cost the same as far as this measurement can tell."
        )
    return Line(
        "The intervals have no value in common: the mechanisms do not cost the same here, and gaps between them are partly that."
    )


def messages_figure(recorded: Study) -> Figure:
    """MS-SSIM of each mechanism over the number of messages, with the undefended attack and the prior alone."""
    return plots.curves(**over_messages(recorded), xlabel="messages about each photo", ylabel="MS-SSIM")


def over_messages(recorded: Study) -> dict[str, Any]:
    """Arguments of `plots.curves`: MS-SSIM of each mechanism over the number of messages."""
    counts = message_counts(recorded)
    cells = {name: [recorded.rows[f"{name}, {count}"][METRIC] for count in counts] for name in repeated(recorded)}
    return {
        "lines": {name: [cell["mean"] for cell in row] for name, row in cells.items()},
        "bands": {name: tuple([cell["ci"][end] for cell in row] for end in (0, 1)) for name, row in cells.items()},
        "levels": {name: recorded.rows[name][METRIC]["mean"] for name in ("undefended", "prior only")},
        "x": counts,
        "points": True,
    }


def retrieval_table(recorded: Study) -> pages.Table:
    """How often each photo is found first among 1,000, by the number of messages."""
    counts = message_counts(recorded)
    rows = [
        [name, *(_percent(recorded.rows[f"{name}, {count}"]["retrieval_top1"]) for count in counts)]
        for name in repeated(recorded)
    ]
    return pages.table(["photo found among 1,000 (%)", *(f"k = {count}" for count in counts)], rows)


def comparisons(recorded: Study) -> list[tuple[str, str]]:
    """Pairs of rows to compare.

    Each mechanism beside isotropic noise heard as often, each beside itself heard once, and the two replies to hidden heads.
    """
    counts = message_counts(recorded)
    others = [(name, count) for count in counts for name in heard(recorded, count) if name != "gaussian"]
    pairs = [(f"{name}, {count}", f"gaussian, {count}") for name, count in others]
    pairs += [(f"{name}, {count}", f"{name}, 1") for name in repeated(recorded) for count in counts if count > 1]
    return pairs + [(label, ", ".join(label.split(", ")[:2])) for label in recorded.rows if label.endswith("instances")]


def comparisons_table(recorded: Study) -> pages.Table:
    """`comparisons`, each with its difference in MS-SSIM and what that says."""
    rows = [[a, b, *_gap(recorded, a, b)] for a, b in comparisons(recorded)]
    return pages.table(["mechanism, messages", "against", "MS-SSIM", "by its interval"], rows)


def order_in_words(recorded: Study) -> Line:
    """Which mechanism leaks least for each number of messages, and which are not told apart from it."""
    tried = len(comparisons(recorded))
    guard = f"{tried} intervals at 95 % were looked at: expect about {0.05 * tried:.0f} wrong ones."
    return sentences([*(_least(recorded, count) for count in message_counts(recorded)), guard])


def _least(recorded: Study, count: int) -> str:
    order = sorted(heard(recorded, count), key=lambda name: recorded.rows[f"{name}, {count}"][METRIC]["mean"])
    verdicts = {other: _gap(recorded, f"{other}, {count}", f"{order[0]}, {count}")[1] for other in order[1:]}
    tied = [other for other, verdict in verdicts.items() if verdict == "not told apart"]
    return (
        f"{count} message{'s' if count > 1 else ''}: {order[0]} has the lowest MS-SSIM; "
        f"not told apart from it: {', '.join(tied) or 'none'}."
    )


def summary(recorded: Study) -> Line:
    """What DRAG at equal accuracy says of shaped noise and of repeated messages."""
    if not recorded:
        return Line("The study has not been recorded here, so this page has no verdict at equal accuracy.")
    return sentences(_summary(recorded))


def _summary(recorded: Study) -> Iterator[str]:
    first, *_, last = message_counts(recorded)
    for count in (first, last):
        lines, by = _gap(recorded, f"shaped, {count}", f"gaussian, {count}")
        yield f"{ATTACK} at equal accuracy, shaped against isotropic noise, messages heard {count}: {by} ({lines})."
    undone = [name for name in repeated(recorded) if _gap(recorded, f"{name}, {last}", f"{name}, 1")[1] == "leaks more"]
    yield f"Mechanisms that leak more when heard {last} times: {', '.join(undone) or 'none told apart'}."


def _gap(recorded: Study, a: str, b: str) -> tuple[str, str]:
    """Paired difference of MS-SSIM as text, and its verdict."""
    difference = recorded.difference(a, b, METRIC)
    return f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]", leaks_in_words(difference, METRIC)


def _percent(interval: Sequence[float]) -> str:
    """(mean, low, high) as percentages."""
    return f"{100 * interval[0]:.1f} [{100 * interval[1]:.1f}, {100 * interval[2]:.1f}]"
