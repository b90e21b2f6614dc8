"""Attacks: from an intermediate representation to a photo. One method per file, one contract.

`attack(h, client, prior, config, *, mask, distance, seeds, threat, callback, checkpoint) -> Reconstruction`; an attack never receives the
photo. `prior` is what the attacker knows about photos: a diffusion model, a GAN, a trained inverse network, or nothing.
"""

from dragkit.attacks.config import DragConfig
from dragkit.attacks.drag import DragState, drag
from dragkit.attacks.likelihood import LikelihoodConfig, likelihood
from dragkit.attacks.rmle import RmleConfig, rmle

__all__ = ["DragConfig", "DragState", "LikelihoodConfig", "RmleConfig", "drag", "likelihood", "rmle"]
