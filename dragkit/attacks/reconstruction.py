"""What every attack returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from dragkit.attacks.threat import ThreatModel


@dataclass(eq=False, repr=False)
class Reconstruction:
    """Photos rebuilt from intermediate representations.

    Attributes:
        images: `(B, 3, S, S)` in [0, 1], at the prior's size.
        distance: the attacker's own final IR distance of each image, `(B,)`; NaN where an image failed.
        nfe: network function evaluations per image: calls of the noise predictor (or of the client, for attacks without a prior).
        seconds: wall time of the whole batch.
        threat: what the attacker was assumed to have.
        failed_at: per image, the iteration at which it became NaN or infinite (its last finite state is returned), else None.
        interrupted: True if Ctrl-C or the callback ended the run early; `images` are then the best so far.
        trace: per-iteration records, e.g. `trace["distance"]` `(iterations, B)`; empty for attacks without iterations.
    """

    images: Tensor
    distance: Tensor
    nfe: int
    seconds: float
    threat: ThreatModel
    failed_at: list[int | None] = field(default_factory=list)
    interrupted: bool = False
    trace: dict[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        b, _, height, width = self.images.shape
        failed = sum(at is not None for at in self.failed_at)
        notes = [f"{failed} failed"] * (failed > 0) + ["interrupted"] * self.interrupted
        cost = f"distance {self.distance.nanmean():.4f}, nfe {self.nfe}, {self.seconds:.1f} s"
        return f"Reconstruction({', '.join([f'{b} images {height}x{width}', cost, *notes])}; {self.threat})"
