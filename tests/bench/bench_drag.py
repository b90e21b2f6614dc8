"""Side-by-side timings of one DRAG iteration, as ratios within one run: `python tests/bench/bench_drag.py`.

Machines are noisy, so the settings are timed in turns and the ratio of medians is what counts. Prints a table, writes
nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from dragkit import zoo
from dragkit.attacks.drag import drag
from dragkit.attacks.message import Message
from dragkit.config import DragConfig


def alternate(candidates: dict[str, Callable[[], None]], rounds: int = 5) -> dict[str, float]:
    """Median seconds of each candidate, run in turns after one warm-up."""
    for run in candidates.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def main(iterations: int = 8) -> None:
    client, prior = zoo.load_client(at="block:12"), zoo.load_prior()
    config = DragConfig(num_steps=iterations, recurrence=1)
    photos = torch.rand(8, 3, 64, 64)
    with torch.no_grad():
        h = client(photos)

    def attack(batch: int, trainable: bool = False) -> Callable[[], None]:
        def run() -> None:
            for network in (prior.vae, prior.unet, client):
                network.requires_grad_(trainable)
            drag(Message(h[:batch], client), prior, config)

        return run

    names = {"batch 1": attack(1), "batch 8": attack(8), "batch 1, weights not frozen": attack(1, True)}
    medians = alternate(names)
    table = Table("setting", "ms per iteration", "ms per iteration and photo", "against batch 1, per photo")
    base = medians["batch 1"]
    for name, seconds in medians.items():
        photos_done = 8 if name == "batch 8" else 1
        per_photo = seconds / photos_done
        table.add_row(
            name, f"{seconds / iterations * 1e3:.1f}", f"{per_photo / iterations * 1e3:.1f}", f"{per_photo / base:.2f}x"
        )
    Console().print(f"{torch.get_num_threads()} threads, torch {torch.__version__}", table)


if __name__ == "__main__":
    main()
