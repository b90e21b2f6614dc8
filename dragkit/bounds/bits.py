"""Bit budgets: a message of few bits cannot help any attacker much, whatever they know and whatever counts as success.

Maximal leakage (Issa, Wagner, Kamath, https://arxiv.org/abs/1807.07878) is L = log2 of the integral of sup_x p(z | x) over z. If
success without the message has probability kappa at best, then with the message it has at most kappa 2^L, for every prior, attacker
and measure of success. It says something while L < log2(1 / kappa). The least kappa that data allow is in `baseline`.
"""

from __future__ import annotations

import math


def maximal_leakage_bits_code(bits: float, numbers: int = 1) -> float:
    """Maximal leakage of a message of `numbers` codes of `bits` bits each (log2 of their levels): at most all of its bits.

    Raises:
        ValueError: negative or infinite bits, or fewer than one number.
    """
    _not_negative("bits", bits)
    if numbers < 1:
        raise ValueError(f"numbers is {numbers}; it must be at least 1")
    return float(bits * numbers)


def maximal_leakage_gaussian(radius_over_std: float, dims: int) -> float:
    """Bits leaked by `dims` numbers that are clipped to [-r, r] and sent with Gaussian noise.

    They are dims log2(1 + 2 r / (sigma sqrt(2 pi))): the supremum of the density over the box is its peak within [-r, r], and the
    tail of the nearer end outside. Features that do not fill the box leak less.

    Args:
        radius_over_std: r / sigma, 0 or more.
        dims: k, 1 or more. Nothing else about the photo may be sent.

    Raises:
        ValueError: outside these ranges.
    """
    _not_negative("radius_over_std", radius_over_std)
    if dims < 1:
        raise ValueError(f"dims is {dims}; it must be at least 1")
    return dims * math.log2(1 + 2 * radius_over_std / math.sqrt(2 * math.pi))


def composed_bits(bits: float, queries: int) -> float:
    """Leakage of `queries` messages about one photo, each with randomness of its own: at most the sum.

    A code without randomness repeats itself, and leaks nothing more the second time.

    Raises:
        ValueError: negative bits, or fewer than one query.
    """
    _not_negative("bits", bits)
    if queries < 1:
        raise ValueError(f"queries is {queries}; it must be at least 1")
    return bits * queries


def success_bound(kappa: float, bits: float) -> float:
    """The largest probability of success with a message that leaks `bits`: min(1, kappa 2^bits).

    Args:
        kappa: the largest without a message, in [0, 1] (`baseline_success` estimates it).
        bits: maximal leakage, 0 or more.

    Raises:
        ValueError: outside these ranges.
    """
    if not 0 <= kappa <= 1:
        raise ValueError(f"kappa is {kappa}; it is a probability, in [0, 1]")
    _not_negative("bits", bits)
    if kappa == 0:
        return 0.0
    return 1.0 if bits >= -math.log2(kappa) else kappa * 2.0**bits


def shuffle_bits(n: int) -> float:
    """The most that a random order of n tokens can hide: log2(n!) bits.

    Raises:
        ValueError: a negative n.
    """
    if n < 0:
        raise ValueError(f"n is {n}; it must be 0 or more")
    return math.lgamma(n + 1) / math.log(2)


def _not_negative(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value}; it must be finite and 0 or more")
