"""Comparisons of attacks (`dragkit sweep NAME`), all on the same validation photos and resumable.

Settings were chosen on training photos (`search`). Budgets of different methods are equal in seconds, not in iterations (`budget`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dragkit.sweeps.bounds import bits, bounds
from dragkit.sweeps.depth import baselines
from dragkit.sweeps.disco import disco
from dragkit.sweeps.identity import retrieval
from dragkit.sweeps.ingredients import ablations, rates, recurrence_curve
from dragkit.sweeps.noise import noise
from dragkit.sweeps.nopeek import nopeek
from dragkit.sweeps.patience import budgets, patience
from dragkit.sweeps.pixel_space import pixels
from dragkit.sweeps.published import published
from dragkit.sweeps.randomness import randomness
from dragkit.sweeps.start import starts
from dragkit.sweeps.tokens import tokens
from dragkit.sweeps.transport import transport
from dragkit.sweeps.tuning import search

SWEEPS: dict[str, Callable[..., Path]] = {
    "search": search,
    "baselines": baselines,
    "ablations": ablations,
    "recurrence_curve": recurrence_curve,
    "rates": rates,
    "retrieval": retrieval,
    "budgets": budgets,
    "patience": patience,
    "starts": starts,
    "pixels": pixels,
    "published": published,
    "defence_noise": noise,
    "defence_tokens": tokens,
    "defence_transport": transport,
    "defence_nopeek": nopeek,
    "defence_disco": disco,
    "defence_randomness": randomness,
    "bounds": bounds,
    "bits": bits,
}
