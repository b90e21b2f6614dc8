"""Attacks: from an intermediate representation to a photo. One method per file, one contract.

`attack(h, client, prior, config) -> Reconstruction`; an attack never receives the photo.
"""

from dragkit.attacks.config import DragConfig
from dragkit.attacks.drag import DragState, drag
from dragkit.attacks.rmle import RmleConfig, rmle

__all__ = ["DragConfig", "DragState", "RmleConfig", "drag", "rmle"]
