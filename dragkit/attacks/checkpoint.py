"""Checkpoints of a running attack: one safetensors file that holds all that resuming needs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dragkit.attacks.message import Message
from dragkit.cache import digest, write_tensors
from dragkit.streams import NoiseSource


class AttackState(Protocol):
    """What an attack knows between two turns."""

    iteration: int
    total: int
    trace: list[Tensor]  # distances (B,) of every turn so far

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that going on needs, by name; the trace apart."""

    def numbers(self) -> dict[str, float]:
        """All numbers that going on needs, by name."""

    def restore(self, tensors: dict[str, Tensor], numbers: dict[str, float]) -> None:
        """Become the state that gave these."""


def fingerprint(*parts: object) -> str:
    """Hash of what an attack depends on: messages by their `identity`, tensors by their bytes, anything else by its `repr`."""
    return digest(*(fingerprint(*part.identity()) if isinstance(part, Message) else part for part in parts))


@dataclass(frozen=True)
class Snapshot:
    """The attack between two turns."""

    tensors: dict[str, Tensor]
    trace: list[Tensor]  # joined only when it is saved: a snapshot is taken every turn
    info: dict[str, str]


class Checkpoint:
    """File of a running attack.

    Args:
        path: the file; None means no checkpoints.
        depends_on: all that the attack depends on; a file written for another one is refused.
        every: seconds between saves.
    """

    def __init__(self, path: str | Path | None, depends_on: Sequence[object], every: float = 60.0):
        self._path, self._every = Path(path) if path else None, every
        self._identity = fingerprint(*depends_on) if path else ""
        self._last = time.monotonic()

    def load(self, state: AttackState, noise: NoiseSource) -> None:
        """Bring `state` and `noise` to where the file left them; nothing happens without a file.

        Raises:
            ValueError: the file is no checkpoint, or belongs to another attack (settings, photo, mask, distance, start, seeds,
                client or prior differ).
        """
        if self._path is None or not self._path.exists():
            return
        try:
            with safe_open(self._path, "pt") as f:
                info, tensors = f.metadata(), {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
            trace, identity = list(tensors.pop("trace")), info.pop("identity")
        except (SafetensorError, OSError, KeyError, AttributeError) as error:
            raise ValueError(f"{self._path} is not a checkpoint of an attack ({error}); name another file") from error
        if identity != self._identity:
            raise ValueError(
                f"{self._path} was written by another attack: its settings, representations, mask, start, seeds, client "
                "or prior differ from these; name another file, or delete it"
            )
        state.restore(tensors, {name: float(value) for name, value in info.items()})
        state.trace = trace
        noise.load({name[6:]: t for name, t in tensors.items() if name.startswith("noise.")})

    def snapshot(self, state: AttackState, noise: NoiseSource) -> Snapshot | None:
        """What `save` would write now; None without a file. Later changes of `state` do not reach into it."""
        if self._path is None:
            return None
        tensors = state.tensors() | {f"noise.{name}": t for name, t in noise.state().items()}
        return Snapshot(
            tensors, list(state.trace), {"identity": self._identity, **{n: repr(v) for n, v in state.numbers().items()}}
        )

    def save_if_due(self, state: AttackState, noise: NoiseSource) -> None:
        if self._path is not None and (time.monotonic() - self._last > self._every or state.iteration == state.total):
            self.save(self.snapshot(state, noise))

    def save(self, snapshot: Snapshot | None) -> None:
        """Write aside, then rename: an interrupted save leaves the previous file whole."""
        if self._path is None or snapshot is None:
            return
        trace = torch.stack(snapshot.trace) if snapshot.trace else torch.zeros(0, 0)
        write_tensors(self._path, snapshot.tensors | {"trace": trace}, snapshot.info)
        self._last = time.monotonic()
