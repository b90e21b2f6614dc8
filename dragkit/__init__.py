"""dragkit: how much of a photo leaks from the features a phone sends to a server, and what stops it.

    from dragkit import Message, drag, load_client, load_image, load_prior

    client = load_client(at="block:9")
    h = client(load_image("photo.jpg", 64)[None])
    rebuilt = drag(Message(h, client), load_prior())

The names below are the common ones; each is imported, with what it needs, when it is first asked for. Everything else is in the
packages: `attacks`, `defenses`, `adaptive` (what an attacker who knows the defence does), `measures`, `bounds`, `priors`, `client`
and `zoo` (the embedded models).
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `_HOME` says, once more for editors and type checkers
    from dragkit.adaptive import hear
    from dragkit.attacks.drag import drag
    from dragkit.attacks.dragpp import drag_plus_plus
    from dragkit.attacks.message import Message
    from dragkit.attacks.reconstruction import Reconstruction
    from dragkit.attacks.restarts import restarts
    from dragkit.attacks.threat import ThreatModel
    from dragkit.client import SplitClient
    from dragkit.config import DragConfig
    from dragkit.defenses import DEFENCES, defend
    from dragkit.defenses import make as make_defence
    from dragkit.distance import cosine_distance
    from dragkit.images import load_image, load_images, save_image
    from dragkit.measures import metrics
    from dragkit.measures.identification import Gallery
    from dragkit.priors.diffusion import LatentPrior, PixelPrior
    from dragkit.zoo import load_client, load_prior

__version__ = "0.1.0"

__all__ = [
    "DEFENCES",
    "DragConfig",
    "Gallery",
    "LatentPrior",
    "Message",
    "PixelPrior",
    "Reconstruction",
    "SplitClient",
    "ThreatModel",
    "cosine_distance",
    "defend",
    "drag",
    "drag_plus_plus",
    "hear",
    "load_client",
    "load_image",
    "load_images",
    "load_prior",
    "make_defence",
    "metrics",
    "restarts",
    "save_image",
]

_HOME = {
    "DEFENCES": "defenses:DEFENCES",
    "DragConfig": "config:DragConfig",
    "Gallery": "measures.identification:Gallery",
    "LatentPrior": "priors.diffusion:LatentPrior",
    "Message": "attacks.message:Message",
    "PixelPrior": "priors.diffusion:PixelPrior",
    "Reconstruction": "attacks.reconstruction:Reconstruction",
    "SplitClient": "client:SplitClient",
    "ThreatModel": "attacks.threat:ThreatModel",
    "cosine_distance": "distance:cosine_distance",
    "defend": "defenses:defend",
    "drag": "attacks.drag:drag",
    "drag_plus_plus": "attacks.dragpp:drag_plus_plus",
    "hear": "adaptive:hear",
    "load_client": "zoo:load_client",
    "load_image": "images:load_image",
    "load_images": "images:load_images",
    "load_prior": "zoo:load_prior",
    "make_defence": "defenses:make",
    "metrics": "measures.metrics",
    "restarts": "attacks.restarts:restarts",
    "save_image": "images:save_image",
}  # where each name lies in this package


_ROOMS = ("adaptive", "attacks", "bounds", "client", "defenses", "measures", "priors", "zoo")


def __getattr__(name: str) -> Any:
    """The name from its home (PEP 562)."""
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return resolve_name(f"{__name__}.{_HOME[name]}")


def __dir__() -> list[str]:
    return __all__
