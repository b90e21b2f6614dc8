"""Chapter 16, bounds: what gallery bounds say of numbers and crops; tables, figures and sentences from the recorded studies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from dragkit.bounds import (
    BaselineSuccess,
    GalleryBound,
    GalleryIdentification,
    composed_bits,
    crb_mse,
    entropy_cap_psnr,
    maximal_leakage_gaussian,
    shuffle_bits,
)
from draglab.chapters.tradeoff import ATTACK
from draglab.pages import pages, plots
from draglab.pages.study import Line, Study, sentences

NOISE = "noise: log2 of its deviation in units of the IR's spread"

Level = dict[str, Any]
"""One strength of noise of the study "bounds": its bounds, accuracy and attacks."""


# -- numbers, where the truth is known -----------------------------------------------------------------------------------


def numbers_figure(nats: Tensor, posterior: Tensor, bounds: Mapping[int, Sequence[GalleryBound]]) -> Figure:
    """The smallest possible error, gallery bounds and the entropy bound over the information in a message.

    Args:
        nats: in a message, `(strengths,)`.
        posterior: variance that is left of each number, `(strengths, numbers)`.
        bounds: gallery size -> a bound per strength.
    """
    lines: dict[str, Any] = {"smallest possible": posterior.mean(1)}
    for size, over_noise in bounds.items():
        lines[f"gallery, N = {size}"] = [max(float(bound.values.mean()), 1e-4) for bound in over_noise]
    lines["entropy"] = posterior.log().mean(1).exp()
    return plots.curves(
        lines, nats, xlabel="information in a message (nats)", ylabel="mean squared error", points=True, log=True
    )


def shares_of_truth(truth: Tensor, bounds: Mapping[int, Sequence[GalleryBound]]) -> dict[int, list[float]]:
    """Gallery size -> the bound as a share of the smallest possible error `(strengths,)`, one per strength."""
    return {
        size: [float(bound.values.mean() / error) for bound, error in zip(over_noise, truth, strict=True)]
        for size, over_noise in bounds.items()
    }


def shares_table(nats: Tensor, truth: Tensor, shares: Mapping[int, Sequence[float]]) -> pages.Table:
    """One row per strength: information, smallest possible error, and the share of it that each gallery bound reaches."""
    columns = zip(nats, truth, *shares.values(), strict=True)
    rows = [[f"{float(information):.1f}", float(error), *reached] for information, error, *reached in columns]
    return pages.table(["nats", "smallest possible MSE", *(f"bound / truth, N = {size}" for size in shares)], rows)


def validity_in_words(nats: Tensor, truth: Tensor, bounds: Mapping[int, Sequence[GalleryBound]]) -> Line:
    """Whether a bound lies above the truth, and up to how many nats each gallery reaches half of it."""
    pairs = {size: list(zip(nats, over_noise, truth, strict=True)) for size, over_noise in bounds.items()}
    above = [size for size, rows in pairs.items() for _, bound, error in rows if bound.interval().low > error]
    lines = ["No bound lies above the truth by its interval."]
    if above:
        lines = [
            f"Bounds above the truth by their intervals, for N = {above}: two galleries have too narrow an interval."
        ]
    for size, rows in pairs.items():
        useful = max((float(n) for n, bound, error in rows if bound.values.mean() > error / 2), default=0)
        lines.append(f"N = {size}: at least half of the truth up to {useful:.1f} nats; ln N is {math.log(size):.1f}.")
    return sentences(lines)


# -- crops, live ---------------------------------------------------------------------------------------------------------


def crops_table(levels: Mapping[float, tuple[GalleryBound, GalleryIdentification]]) -> pages.Table:
    """One row per noise: information, how often the crop is found, and the bound beside the error of the mean crop."""
    rows = []
    for noise, (bound, known) in levels.items():
        error = float(bound.values.mean())
        lines = [f"{noise:g}", float(bound.nats.mean()), f"{known.top(1).mean:.0%}"]
        rows.append([*lines, error, 2 * error, float(bound.nothing.mean())])
    header = ["noise", "nats, at least", "found in the gallery", "bound on the MSE", "twice", "MSE of the mean crop"]
    return pages.table(header, rows)


def crops_in_words(levels: Mapping[float, tuple[GalleryBound, GalleryIdentification]]) -> Line:
    """At which noise the bound is empty or strong, and how often guessing finds the crop."""
    reached = {noise: float(bound.values.mean() / bound.nothing.mean()) for noise, (bound, _) in levels.items()}
    empty = [f"{noise:g}" for noise, share in reached.items() if share < 0.01]
    strong = [f"{noise:g}" for noise, share in reached.items() if share > 0.5]
    chance = next(iter(levels.values()))[1].chance(1)
    return sentences(
        [
            f"Vacuous (below 1 % of the error of the mean crop) at noise {', '.join(empty) or 'none of these'}.",
            f"Above half of the error of the mean crop at noise {', '.join(strong) or 'none of these'}.",
            f"Chance of finding the crop by guessing: {chance:.0%}.",
        ]
    )


def unbiased_table(trace: Tensor, lazy: float, stds: Mapping[float, float], pixels: int) -> pages.Table:
    """The Cramer-Rao number at each noise (noise -> deviation) beside the error `lazy` of always answering the mean crop."""
    rows = []
    for noise, std in stds.items():
        unbiased = float(crb_mse(trace, std, pixels).mean())
        beaten = "violated by the mean crop" if lazy < unbiased else "not violated by it"
        rows.append([f"{noise:g}", f"{unbiased:.2g}", f"{lazy:.3f}", beaten])
    return pages.table(["noise", "Cramér-Rao (MSE)", "MSE of the mean crop", "so the number is"], rows)


def unbiased_in_words(numbers: int, pixels: int) -> Line:
    """Whether an unbiased attacker can exist for a message of so many numbers about so many pixels."""
    verdict = "an unbiased attacker may exist."
    if numbers < pixels:
        verdict = "there is no unbiased attacker at all, whom the number could be about."
    return Line(f"The message has {numbers:,} numbers, the photo {pixels:,}: {verdict}")


def caps_table() -> pages.Table:
    """What entropy bounds cannot exclude, for some sizes of a stored photo."""
    rows = [[bits, entropy_cap_psnr(bits)] for bits in (2.6, 3.0, 3.3, 3.6)]
    return pages.table(["bits per number", "cannot exclude a PSNR (dB) of"], rows)


def caps_in_words(lazy: float) -> Line:
    """The weakest cap beside the answer of the mean crop, of mean squared error `lazy`."""
    return Line(
        f"The mean crop, an answer without any message, has {-10 * math.log10(lazy):.0f} dB; "
        f"the weakest of these caps is at {entropy_cap_psnr(3.6):.0f} dB."
    )


def bits_in_words(numbers: int) -> Line:
    """How many bits messages of `numbers` and of eight numbers leak at most, and what shuffling can hide."""
    eight = maximal_leakage_gaussian(2.0, 8)
    whole = maximal_leakage_gaussian(2.0, numbers)
    return sentences(
        [
            f"All {numbers:,} numbers of the IR, clipped at two deviations of the noise: {whole:,.0f} bits.",
            f"Eight numbers: {eight:.1f} bits; heard 16 times: {composed_bits(eight, 16):.0f}.",
            f"What shuffling 64 tokens can hide at most: {shuffle_bits(64):.0f} bits.",
        ]
    )


def guesses_table(kappas: Sequence[BaselineSuccess]) -> pages.Table:
    """One row per threshold of success: how often the best guess succeeds, and the bits that may leak."""
    rows = [
        [f"MSE <= {kappa.threshold}", kappa.rate, kappa.upper_any, f"{-math.log2(kappa.upper_any):.1f}"]
        for kappa in kappas
    ]
    header = ["success means", "success of the best guess", "upper limit, all guesses", "bits that may leak"]
    return pages.table(header, rows)


# -- recorded: bounds and attacks ----------------------------------------------------------------------------------------


def noise_levels(recorded: Study) -> list[Level]:
    """The recorded strengths of noise, the weakest first."""
    return sorted(recorded.rows.values(), key=lambda level: level["noise"])


def sizes_in_words(recorded: Study) -> Line:
    """How large galleries, messages and photos are."""
    return Line(
        f"Galleries of {recorded['size']:,} photos, IR of {recorded['ir_numbers']:,} numbers, "
        f"photos of {recorded['pixel_numbers']:,}."
    )


def bounds_figure(recorded: Study) -> Figure:
    """Bounds and attacks over the noise."""
    return plots.curves(**over_noise(recorded), xlabel=NOISE, ylabel="mean squared error")


def over_noise(recorded: Study) -> dict[str, Any]:
    """Arguments of `plots.curves`: bounds and attacks over the noise; NaN where a value is too small or large to draw."""
    levels = noise_levels(recorded)
    top = 10 * max(level["prior_variance"] for level in levels)
    cells = {
        "gallery bound": [level["bound"] for level in levels],
        "Cramér-Rao, unbiased only": [level["crb_unbiased_only"]["ci"] for level in levels],
        **{_attack(name): [level["attacks"][name]["ci"] for level in levels] for name in _drawn(levels)},
        "2 x bound": [level["posterior_sampler_bound"] for level in levels],
    }
    ends = {
        label: [[v if 1e-5 <= v <= top else math.nan for v in column] for column in zip(*rows, strict=True)]
        for label, rows in cells.items()
    }
    return {
        "lines": {label: columns[0] for label, columns in ends.items()},
        "bands": {label: (columns[1], columns[2]) for label, columns in ends.items()},
        "levels": {"mean photo": sum(level["prior_variance"] for level in levels) / len(levels)},
        "x": _octaves(levels),
        "points": True,
        "log": True,
    }


def _drawn(levels: Sequence[Level]) -> list[str]:
    """DRAG and one other attack, as far as they were tried at every noise."""
    everywhere = [name for name in _attacks(levels) if all(name in level["attacks"] for level in levels)]
    second = next((name for name in ("inverse network", "rMLE") if name in everywhere), "")
    return [name for name in ("DRAG", second) if name in everywhere]


def _attacks(levels: Sequence[Level]) -> list[str]:
    return list(dict.fromkeys(name for level in levels for name in level["attacks"]))


def _attack(name: str) -> str:
    """The name of an attack for figures and tables, DRAG with its settings."""
    return ATTACK if name == "DRAG" else name


def _octaves(levels: Sequence[Level]) -> list[float]:
    return [math.log2(level["noise"]) for level in levels]


def accuracy_figure(recorded: Study) -> Figure:
    """Accuracy of the server, and how often the best attacker names the right photo, over the noise."""
    levels = noise_levels(recorded)
    sides = {"accuracy of the server": "accuracy", "sent photo found in the gallery": "top1"}
    mean, low, high = (
        {label: [level[key][end] for level in levels] for label, key in sides.items()} for end in range(3)
    )
    return plots.curves(
        mean,
        _octaves(levels),
        bands={label: (low[label], high[label]) for label in sides},
        xlabel=NOISE,
        ylabel="share",
        points=True,
    )


def bounds_table(recorded: Study) -> pages.Table:
    """One row per noise: accuracy, information, bounds, and the error of every attack."""
    levels = noise_levels(recorded)
    header = ["noise", "accuracy", "nats, at least", "found", "gallery bound", "2 x bound", "bound, new photos"]
    return pages.table([*header, *map(_attack, _attacks(levels))], [_bounds_row(level, levels) for level in levels])


def _bounds_row(level: Level, levels: Sequence[Level]) -> list[str]:
    attacks = level["attacks"]
    return [
        f"{level['noise']:g}",
        f"{level['accuracy'][0]:.1%}",
        f"{level['nats']:.1f} of {math.log(level['size']):.1f}",
        f"{level['top1'][0]:.1%}",
        _interval(level["bound"]),
        f"{level['posterior_sampler_bound'][0]:.4f}",
        f"{level['new_photos_bound'][0]:.4f}",
        *(_interval(attacks[name]["ci"]) if name in attacks else "-" for name in _attacks(levels)),
    ]


def bounds_in_words(recorded: Study) -> Line:
    """Where the bound speaks, what is left of the server there, and how near attacks come."""
    levels = noise_levels(recorded)
    silent = [level for level in levels if level["bound"][0] < 0.01 * level["prior_variance"]]
    violated = [v for v in levels if v["attacks"]["mean training photo"]["ci"][0] < v["crb_unbiased_only"]["ci"][0]]
    return sentences(
        [
            f"Vacuous (below 1 % of the mean photo's error) at noise {_noises(silent)}.",
            *_price(levels),
            *(_distance(level) for level in levels if level not in silent),
            f"The mean training photo is below the Cramér-Rao number at noise {_noises(violated)}.",
        ]
    )


def _price(levels: Sequence[Level]) -> Iterator[str]:
    """From which noise the bound excludes a tenth of the mean photo's error, and what accuracy that costs."""
    first = levels[0]["accuracy"][0]
    speaks = next((level for level in levels if level["bound"][1] >= 0.1 * level["prior_variance"]), None)
    if speaks is None:
        yield "At no noise does it exclude an error below a tenth of the mean photo's."
        return
    kept = speaks["accuracy"][0]
    yield (
        f"From noise {speaks['noise']:g} on it excludes an error below a tenth of the mean photo's. "
        f"There the server is right about {kept:.1%} of the photos, against {first:.1%} at the weakest noise."
    )
    if kept > first - 0.05:
        yield "So the guarantee is to be had for less than five points of accuracy."
    else:
        yield "So this guarantee costs more than five points: what works for the server here is not yet provably safe."


def _distance(level: Level) -> str:
    """How far attacks are from the bound at one noise."""
    errors = {name: row["ci"][0] for name, row in level["attacks"].items()}
    best, bound = min(errors, key=errors.__getitem__), level["bound"][0]
    return (
        f"Noise {level['noise']:g}: {ATTACK} has {errors['DRAG'] / bound:.1f} times the bound, "
        f"{errors['DRAG'] / level['posterior_sampler_bound'][0]:.1f} times what a perfect sampler has at least. "
        f"Nearest: {_attack(best)}, {errors[best] / bound:.2f} times."
    )


def _noises(chosen: Sequence[Level]) -> str:
    return ", ".join(format(level["noise"], "g") for level in chosen) or "none of these"


# -- recorded: bit budgets -----------------------------------------------------------------------------------------------


def speaking(recorded: Study) -> dict[str, Any]:
    """The rows whose bound on the probability of success is below 1."""
    return {label: row for label, row in recorded.rows.items() if row["bound"] < 1}


def bits_table(recorded: Study) -> pages.Table:
    """One row per message and threshold with a bound below 1."""
    rows = [
        [label, f"{row['bits']:.1f}", f"{row['kappa_limit']:.4f}", f"{row['bound']:.3f}", _interval(row["achieved"])]
        for label, row in speaking(recorded).items()
    ]
    return pages.table(["message, success", "bits", "kappa, limit", "bound", "attacker"], rows)


def bits_figure(recorded: Study) -> Figure | Line:
    """Bound and attacker over the bits of a message, for the threshold of success at which most bounds speak."""
    counts = {t: sum(row["threshold"] == t for row in speaking(recorded).values()) for t in recorded["thresholds"]}
    most = max(counts, key=counts.__getitem__)
    rows = sorted((row for row in recorded.rows.values() if row["threshold"] == most), key=lambda row: row["bits"])
    if min(row["achieved"][0] for row in rows) <= 0:
        return Line("The attacker never succeeded with one of the messages, so there is nothing to draw.")
    return plots.curves(
        {f"bound, MSE <= {most}": [row["bound"] for row in rows], "attacker": [row["achieved"][0] for row in rows]},
        [row["bits"] for row in rows],
        bands={"attacker": ([max(row["achieved"][1], 1e-5) for row in rows], [row["achieved"][2] for row in rows])},
        levels={"kappa": rows[0]["kappa_limit"]},
        xlabel="bits leaked at most",
        ylabel="probability of success",
        points=True,
        log=True,
    )


def budgets_in_words(recorded: Study) -> Line:
    """How many bounds say nothing, and whether an attacker's interval reaches above one."""
    known = speaking(recorded)
    over = [label for label, row in known.items() if row["achieved"][2] > row["bound"]]
    return sentences(
        [
            f"Of {len(recorded.rows)} pairs of message and threshold {len(recorded.rows) - len(known)} have a bound of 1, "
            "which says nothing.",
            f"Bounds that the attacker's interval reaches above: {', '.join(over) or 'none'}.",
        ]
    )


# -- summary -------------------------------------------------------------------------------------------------------------


def summary(nats: Tensor, shares: Mapping[int, Sequence[float]], bounds: Study, bits: Study) -> Line:
    """What the bounds say of numbers, of photos and of small messages."""
    largest = shares[max(shares)]
    lines = [
        f"On Gaussian numbers the largest gallery gives {largest[0]:.2f} of the truth at {float(nats[0]):.1f} nats and "
        f"{largest[-1]:.2f} at {float(nats[-1]):.1f} nats."
    ]
    if bounds:
        weak, *_, hard = noise_levels(bounds)
        weakest = _relative(weak, " of the mean photo's error")
        lines.append(f"On photos the bound is {weakest} and {_relative(hard)}.")
    else:
        lines.append("The bounds on photos have not been recorded here, so this page has no verdict about DRAG.")
    if bits:
        lines.append(
            f"Bit budgets say something for {len(speaking(bits))} of {len(bits.rows)} pairs of small message and threshold."
        )
    return sentences(lines)


def _relative(level: Level, of: str = "") -> str:
    share = level["bound"][0] / level["prior_variance"]
    return f"{share:.0%}{of} at noise {level['noise']:g} (accuracy {level['accuracy'][0]:.0%})"


def _interval(values: Sequence[float]) -> str:
    """(mean, low, high) as text."""
    return "{:.4f} [{:.4f}, {:.4f}]".format(*values)
