"""Attacks: from an intermediate representation to a photo. One method per file, one contract.

`attack(h, client, prior, config, *, mask, distance, seeds, threat, callback, checkpoint) -> Reconstruction`; an attack never
receives the photo. `prior` is what the attacker knows about photos: a diffusion model, a GAN, a trained inverse network or nothing.
"""

from dragkit.attacks.config import DragConfig
from dragkit.attacks.drag import DragState, drag
from dragkit.attacks.dragpp import drag_plus_plus
from dragkit.attacks.glass import GlassConfig, glass
from dragkit.attacks.inverse import InverseConfig, InverseNetwork, inverse
from dragkit.attacks.likelihood import LikelihoodConfig, likelihood
from dragkit.attacks.restarts import Samples, restarts
from dragkit.attacks.rmle import RmleConfig, rmle

__all__ = [
    "DragConfig",
    "DragState",
    "GlassConfig",
    "InverseConfig",
    "InverseNetwork",
    "LikelihoodConfig",
    "RmleConfig",
    "Samples",
    "drag",
    "drag_plus_plus",
    "glass",
    "inverse",
    "likelihood",
    "restarts",
    "rmle",
]
