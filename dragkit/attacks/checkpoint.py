"""Checkpoints of a running attack: one safetensors file that holds all that resuming needs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open
from safetensors.torch import save_file

from dragkit.noise import NoiseSource

if TYPE_CHECKING:
    from dragkit.attacks.drag import DragState

SAVED = ("z", "best_x0", "best_distance", "failed_at")


class Checkpoint:
    """File of a running attack.

    Args:
        path: the file; None means no checkpoints.
        describe: what the attack is; a file written for something else is refused.
        every: seconds between saves.
    """

    def __init__(self, path: str | Path | None, describe: str, every: float = 60.0):
        self._path, self._describe, self._every = Path(path) if path else None, describe, every
        self._last = time.monotonic()

    def load(self, state: DragState, noise: NoiseSource) -> None:
        """Bring `state` and `noise` to where the file left them; nothing happens without a file.

        Raises:
            ValueError: the file belongs to another attack (settings, representation, client or prior differ).
        """
        if self._path is None or not self._path.exists():
            return
        with safe_open(self._path, "pt") as f:
            info, tensors = f.metadata(), {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
        if info["describe"] != self._describe:
            raise ValueError(
                f"{self._path} was written by another attack ({info['describe']}), this one is {self._describe}; name another file"
            )
        for name in SAVED:
            setattr(state, name, tensors[name].to(getattr(state, name)))
        state.adam.m, state.adam.v = tensors["adam.m"].to(state.z), tensors["adam.v"].to(state.z)
        state.adam.count, state.iteration = int(info["adam.count"]), int(info["iteration"])
        noise.load({name[6:]: t for name, t in tensors.items() if name.startswith("noise.")})

    def save_if_due(self, state: DragState, noise: NoiseSource) -> None:
        if self._path is not None and (time.monotonic() - self._last > self._every or state.iteration == state.total):
            self.save(state, noise)

    def save(self, state: DragState, noise: NoiseSource) -> None:
        """Write aside, then rename: an interrupted save leaves the previous file whole."""
        if self._path is None:
            return
        tensors = {name: getattr(state, name).detach().cpu().contiguous() for name in SAVED}
        tensors |= {"adam.m": state.adam.m.cpu().contiguous(), "adam.v": state.adam.v.cpu().contiguous()}
        tensors |= {f"noise.{name}": t for name, t in noise.state().items()}
        info = {"describe": self._describe, "iteration": str(state.iteration), "adam.count": str(state.adam.count)}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_name(f"{self._path.name}.{os.getpid()}.partial")
        save_file(tensors, partial, metadata=info)
        partial.replace(self._path)
        self._last = time.monotonic()
