"""Equal seconds: what an iteration of each method costs is timed side by side, and the iterations follow from that."""

from __future__ import annotations

import itertools
import time
from typing import Any

import torch

from dragkit import cache, data, zoo
from dragkit.attacks.message import Message
from dragkit.cache import remember
from dragkit.config import DragConfig
from dragkit.methods import METHODS, Setting
from draglab.cases import Case

FAST: dict[str, Any] = {"precision": "bfloat16"}  # networks; see `Case`


def seconds_per_iteration(client: str, at: str, methods: list[str], rounds: int = 3) -> dict[str, float]:
    """Seconds per photo and iteration of each method, timed in turns on 16 training photos; kept in the store.

    Machines are noisy and busy: only ratios between methods are to be trusted.
    """
    photos, _, _ = data.pick("train", 16)
    spec = {"timing": 2, "client": client, "at": at, "methods": methods, "threads": torch.get_num_threads()}

    def work() -> dict[str, torch.Tensor]:
        cut = zoo.load_client(client, at)
        known = Case(DragConfig.ci(), at, client=client).knowledge()
        with torch.no_grad():
            h = cut(photos)
        times: dict[str, list[float]] = {name: [] for name in methods}
        for i, name in itertools.product(range(rounds + 1), methods):
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16):
                METHODS[name].run(Message(h, cut), known, Setting(METHODS[name].budget(6), 0))
            if i > 0:  # the first round loads and warms up
                times[name].append((time.perf_counter() - started) / 6 / len(photos))
        return {name: torch.tensor(min(v), dtype=torch.float64) for name, v in times.items()}

    return {name: float(v) for name, v in remember(cache.cache_dir() / "results", spec, work).items()}


def equal_seconds(client: str, at: str, methods: list[str], turns: int) -> dict[str, Any]:
    """Settings of each method for the time that DRAG needs for `turns` turns."""
    iterative = [name for name in methods if name != "inverse"]
    cost = seconds_per_iteration(client, at, iterative)
    budget = turns * cost["drag"]
    return {name: METHODS[name].budget(max(1, round(budget / cost.get(name, budget)))) for name in methods}


def equal_cases(client: str, at: str, turns: int, n: int, methods: tuple[str, ...] = ()) -> dict[str, Case]:
    """These methods, or every available one, at one cut for the same time: "DRAG, block:9" -> case."""
    settings = equal_seconds(client, at, list(methods) or available(client, at), turns)
    return {
        f"{METHODS[name].label}, {at}": Case(config, at, client=client, method=name, n=n, **FAST)
        for name, config in settings.items()
    }


def available(client: str, at: str) -> list[str]:
    """The methods, variants apart, whose models are shipped for this client and cut, or were trained on this machine."""
    known = Case(DragConfig.ci(), at, client=client).knowledge()
    return [
        name
        for name, method in METHODS.items()
        if not method.variant and all(zoo.available(model) for model in known.names(method.uses))
    ]
