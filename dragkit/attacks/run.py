"""The loop that every iterative attack shares: turns until the plan is done, and the book-keeping around them.

An image that becomes NaN stops there and the others go on; the best so far, the trace, the clock, checkpoints, callbacks and Ctrl-C
are the same for all attacks. What a turn does is the attack's own business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dragkit.attacks.checkpoint import Checkpoint
from dragkit.attacks.reconstruction import Reconstruction
from dragkit.attacks.threat import ThreatModel
from dragkit.streams import NoiseSource

Callback = Callable[[Any], "bool | None"]
"""Called with the state after every turn; True ends the attack."""


@dataclass(kw_only=True, repr=False)
class RunState:
    """What a callback sees after every turn, and what a checkpoint holds; attacks add their own fields.

    Attributes:
        total: turns of the whole attack. iteration: turns done.
        best_distance: smallest distance of each image so far, `(B,)`.
        failed_at: turn of the first NaN of each image, `(B,)`; -1 for none.
        distance: of the last turn, `(B,)`. trace: that of every turn so far. seconds: spent in turns.
    """

    total: int
    best_distance: Tensor
    failed_at: Tensor
    iteration: int = 0
    distance: Tensor | None = None
    trace: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0

    def note(self, distance: Tensor, finite: Tensor) -> tuple[Tensor, Tensor]:
        """Write down one turn.

        Args:
            distance: of each image, `(B,)`. finite: whether all numbers of its turn are, bool `(B,)`.

        Returns:
            which images go on, and which of them are closer than ever, bool `(B,)` each.
        """
        ok = finite & (self.failed_at < 0)
        self.failed_at = torch.where(~finite & (self.failed_at < 0), self.iteration, self.failed_at)
        better = ok & (distance < self.best_distance)
        self.best_distance = torch.where(better, distance, self.best_distance)
        self.distance, self.iteration = distance, self.iteration + 1
        self.trace.append(distance.cpu())
        return ok, better

    def __repr__(self) -> str:
        reached = "" if self.distance is None else f", distance {self.distance.mean():.4f}"
        return f"{type(self).__name__}(turn {self.iteration} of {self.total}{reached})"

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that going on needs, by name; the trace apart."""
        return {"best_distance": self.best_distance, "failed_at": self.failed_at}

    def numbers(self) -> dict[str, float]:
        """All numbers that going on needs, by name."""
        return {"iteration": self.iteration, "seconds": self.seconds}

    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, float]) -> None:
        """Become the state that gave these."""
        self.iteration, self.seconds = int(numbers["iteration"]), numbers["seconds"]
        self.best_distance = tensors["best_distance"].to(self.best_distance)
        self.failed_at = tensors["failed_at"].to(self.failed_at)


def unmeasured(like: Tensor) -> Tensor:
    """`best_distance` before the first turn, `(B,)`; dtype, device and batch of `like` `(B, ...)`."""
    return like.new_full((len(like),), torch.inf)


def unfailed(like: Tensor) -> Tensor:
    """`failed_at` before the first turn, `(B,)`."""
    return torch.full((len(like),), -1, device=like.device)


def run(
    state: RunState,
    turn: Callable[[], None],
    noise: NoiseSource,
    *,
    depends_on: Sequence[object],
    callback: Callback | None,
    checkpoint: str | Path | None,
) -> bool:
    """Take turns until `state.total` are done, every image has failed, the callback says so, or Ctrl-C.

    Args:
        turn: changes `state` by one turn, through assignment: a snapshot taken before must stay what it was.
        noise: what turns draw from; kept in checkpoints.
        depends_on: all that the attack depends on, the message included, for its checkpoints.
        checkpoint: file to resume from when it exists, saved every minute, at the end and on Ctrl-C.

    Returns:
        whether the attack ended before its last turn.

    Raises:
        ValueError: the checkpoint belongs to another attack.
    """
    saved = Checkpoint(checkpoint, depends_on)
    saved.load(state, noise)
    before, stopped = saved.snapshot(state, noise), False
    try:
        while state.iteration < state.total and (state.failed_at < 0).any() and not stopped:
            before = saved.snapshot(state, noise)
            started = time.perf_counter()
            turn()
            state.seconds += time.perf_counter() - started
            saved.save_if_due(state, noise)
            stopped = callback is not None and callback(state) is True
        if stopped:
            saved.save(saved.snapshot(state, noise))
    except KeyboardInterrupt:
        saved.save(before)  # the turn that was interrupted is done again
        stopped = True
    return stopped and state.iteration < state.total


def reconstruction(
    state: RunState, images: Tensor, distance: Tensor, *, nfe: int, interrupted: bool, threat: ThreatModel
) -> Reconstruction:
    """The result of a run: its last images `(B, 3, S, S)` and their distances `(B,)`, NaN where an image failed."""
    return Reconstruction(
        images.nan_to_num(0.5).clamp(0, 1),
        torch.where(state.failed_at >= 0, torch.nan, distance),
        nfe,
        state.seconds,
        threat,
        [None if at < 0 else int(at) for at in state.failed_at],
        interrupted,
        {"distance": torch.stack(state.trace)} if state.trace else {},
    )
