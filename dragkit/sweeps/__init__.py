"""Comparisons of attacks (`dragkit sweep NAME`), all on the same validation photos and resumable.

Settings were chosen on training photos (`search`). Budgets of different methods are equal in seconds, not in iterations (`budget`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dragkit.sweeps.depth import baselines
from dragkit.sweeps.identity import retrieval
from dragkit.sweeps.ingredients import ablations, budgets, rates, recurrence_curve
from dragkit.sweeps.tuning import search

SWEEPS: dict[str, Callable[..., Path]] = {
    "search": search,
    "baselines": baselines,
    "ablations": ablations,
    "recurrence_curve": recurrence_curve,
    "rates": rates,
    "retrieval": retrieval,
    "budgets": budgets,
}
