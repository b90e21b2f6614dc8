"""Every attack under one name each, with what it needs to know loaded from the zoo: the rows of the comparisons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dragkit.attacks.drag import drag
from dragkit.attacks.dragpp import drag_from_grey, drag_plus_plus
from dragkit.attacks.glass import GlassConfig, glass
from dragkit.attacks.image_prior import ImagePriorConfig, deep_image_prior
from dragkit.attacks.inverse import inverse
from dragkit.attacks.message import Message
from dragkit.attacks.reconstruction import Reconstruction
from dragkit.attacks.rmle import RmleConfig, rmle
from dragkit.attacks.run import Callback
from dragkit.attacks.threat import ATTACKER, ThreatModel
from dragkit.config import DragConfig
from dragkit.zoo.knowledge import Knowledge


@dataclass(frozen=True)
class Setting:
    """All that an attack is given beside the message and what the attacker knows.

    Attributes:
        config: the attack's settings; None for the inverse network, which has none. seed: of its randomness, for the first image.
        threat: what the attacker is declared to have. checkpoint: file to resume from. callback: called after every turn.
    """

    config: Any
    seed: int = 0
    threat: ThreatModel = ATTACKER
    checkpoint: Path | None = None
    callback: Callback | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The keywords that all iterative attacks share, but for seeds."""
        return {"threat": self.threat, "callback": self.callback, "checkpoint": self.checkpoint}


Run = Callable[[Message, Knowledge, Setting], Reconstruction]
"""An attack that takes what it needs from `Knowledge`."""


def _drag(m: Message, known: Knowledge, s: Setting) -> Reconstruction:
    return drag(m, known.diffusion, s.config, seeds=s.seed, **s.options)


def _drag_plus_plus(m: Message, known: Knowledge, s: Setting) -> Reconstruction:
    network = known.network
    return drag_plus_plus(m, known.diffusion, s.config, inverse_network=network, seeds=s.seed, **s.options)


def _drag_from_grey(m: Message, known: Knowledge, s: Setting) -> Reconstruction:
    return drag_from_grey(m, known.diffusion, s.config, seeds=s.seed, **s.options)


def _drag_in_pixels(m: Message, known: Knowledge, s: Setting) -> Reconstruction:
    return drag(m, known.pixels, s.config, seeds=s.seed, **s.options)


def _inverse(m: Message, known: Knowledge, s: Setting) -> Reconstruction:
    return inverse(m, known.network, threat=s.threat)


def _rmle(m: Message, known: Knowledge, s: Setting) -> Reconstruction:
    return rmle(m, s.config, **s.options)


def _lm(m: Message, known: Knowledge, s: Setting) -> Reconstruction:
    return deep_image_prior(m, s.config, seeds=s.seed, **s.options)


def _glass(m: Message, known: Knowledge, s: Setting) -> Reconstruction:
    return glass(m, known.gan, s.config, seeds=s.seed, **s.options)


def _glass_plus_plus(m: Message, known: Knowledge, s: Setting) -> Reconstruction:
    return glass(m, known.gan, s.config, encoder=known.encoder, seeds=s.seed, **s.options)


@dataclass(frozen=True)
class Method:
    """An attack as a row of a table.

    Attributes:
        label: in tables. config: class of its settings. uses: which parts of `Knowledge`. run: see `Run`.
        budget: settings for the embedded models, for so many iterations per photo. published: the authors' own; None where there
            are none.
        variant: of another method, with a study of its own; not a row of the comparisons.
    """

    label: str
    config: type
    uses: tuple[str, ...]
    run: Run
    budget: Callable[[int], Any]
    published: Any = None
    variant: bool = False

    def shown(self, config: Any) -> str:
        """The label with its settings, as tables print it: "DRAG (small, k=1)"; the plain one where settings have none."""
        settings = getattr(config, "label", "")
        return f"{self.label} ({settings})" if settings else self.label


def _rmle_for(iterations: int) -> RmleConfig:
    return RmleConfig(iterations=iterations)


def _lm_for(iterations: int) -> ImagePriorConfig:
    return ImagePriorConfig.fast().with_(iterations=iterations)


def _at_once(iterations: int) -> None:
    """The inverse network has no settings and no iterations."""


# "drag-pixel" takes the settings of "drag", chosen for the latent prior. The published pixel variant (`run_drag_dm.py`, on
# a DDPM of bedrooms) runs the same loop and adds a total variation of weight 0.10 per value, which `DragConfig` does not have.
SMALL, PLUS = DragConfig.small, DragConfig.small_plus
METHODS: dict[str, Method] = {
    "drag": Method("DRAG", DragConfig, ("diffusion",), _drag, SMALL, DragConfig.paper()),
    "drag++": Method("DRAG++", DragConfig, ("diffusion", "network"), _drag_plus_plus, PLUS, DragConfig.paper_plus()),
    "drag-grey": Method("DRAG from grey", DragConfig, ("diffusion",), _drag_from_grey, PLUS, variant=True),
    "drag-pixel": Method("DRAG in pixels", DragConfig, ("pixels",), _drag_in_pixels, SMALL, variant=True),
    "inverse": Method("inverse network", type(None), ("network",), _inverse, _at_once),
    "rmle": Method("rMLE", RmleConfig, (), _rmle, _rmle_for, RmleConfig.paper()),
    "lm": Method("LM", ImagePriorConfig, (), _lm, _lm_for, ImagePriorConfig.paper()),
    "glass": Method("GLASS", GlassConfig, ("gan",), _glass, GlassConfig.small, GlassConfig.paper()),
    "glass++": Method(
        "GLASS++", GlassConfig, ("gan", "encoder"), _glass_plus_plus, GlassConfig.small_plus, GlassConfig.paper_plus()
    ),
}


def method_of(config: Any) -> str:
    """The first method that takes settings of this class.

    Raises:
        TypeError: none does.
    """
    for name, method in METHODS.items():
        if isinstance(config, method.config):
            return name
    raise TypeError(f"config is a {type(config).__name__}; no method of {', '.join(METHODS)} takes that")
