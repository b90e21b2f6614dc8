"""Every attack under one name each, with what it needs to know loaded from the zoo: the rows of the comparisons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from dragkit.attacks.drag import drag
from dragkit.attacks.dragpp import drag_from_grey, drag_plus_plus
from dragkit.attacks.glass import GlassConfig, glass
from dragkit.attacks.image_prior import LikelihoodConfig, likelihood
from dragkit.attacks.inverse import InverseConfig, inverse
from dragkit.attacks.reconstruction import Reconstruction
from dragkit.attacks.rmle import RmleConfig, rmle
from dragkit.attacks.threat import ATTACKER, ThreatModel
from dragkit.client import SplitClient
from dragkit.config import DragConfig
from dragkit.distance import Distance, cosine_distance
from dragkit.zoo.knowledge import Knowledge


class Run(Protocol):
    """An attack with its knowledge filled in: `(h, client, known, config, seed)`, what an adaptive attacker changes, and a file to
    resume from."""

    def __call__(
        self,
        h: Tensor,
        client: SplitClient,
        known: Knowledge,
        config: Any,
        seed: int,
        *,
        mask: Tensor | None = None,
        distance: Distance = cosine_distance,
        threat: ThreatModel = ATTACKER,
        checkpoint: Path | None = None,
    ) -> Reconstruction: ...


def with_prior(attack: Callable[..., Reconstruction], prior: str = "", **extra: str) -> Run:
    """`attack` with its prior, and more by keyword, taken from these parts of `Knowledge`."""

    def run(
        h: Tensor,
        client: SplitClient,
        known: Knowledge,
        config: Any,
        seed: int,
        *,
        mask: Tensor | None = None,
        distance: Distance = cosine_distance,
        threat: ThreatModel = ATTACKER,
        checkpoint: Path | None = None,
    ) -> Reconstruction:
        more = {keyword: getattr(known, part) for keyword, part in extra.items()}
        brought = getattr(known, prior) if prior else None
        given = {"mask": mask, "distance": distance, "seeds": seed, "threat": threat, "checkpoint": checkpoint}
        return attack(h, client, brought, config, **given, **more)

    return run


@dataclass(frozen=True)
class Method:
    """An attack as a row of a table.

    Attributes:
        label: in tables. config: class of its settings. uses: which parts of `Knowledge`. run: see `Run`.
        variant: of another method, with a sweep of its own; not a row of the comparisons.
    """

    label: str
    config: type
    uses: tuple[str, ...]
    run: Run
    variant: bool = False


METHODS: dict[str, Method] = {
    "drag": Method("DRAG", DragConfig, ("diffusion",), with_prior(drag, "diffusion")),
    "drag++": Method(
        "DRAG++",
        DragConfig,
        ("diffusion", "network"),
        with_prior(drag_plus_plus, "diffusion", inverse_network="network"),
    ),
    "drag-grey": Method(
        "DRAG from grey", DragConfig, ("diffusion",), with_prior(drag_from_grey, "diffusion"), variant=True
    ),
    "drag-pixel": Method("DRAG in pixels", DragConfig, ("pixels",), with_prior(drag, "pixels"), variant=True),
    "inverse": Method("inverse network", InverseConfig, ("network",), with_prior(inverse, "network")),
    "rmle": Method("rMLE", RmleConfig, (), with_prior(rmle)),
    "lm": Method("LM", LikelihoodConfig, (), with_prior(likelihood)),
    "glass": Method("GLASS", GlassConfig, ("gan",), with_prior(glass, "gan")),
    "glass++": Method("GLASS++", GlassConfig, ("gan", "encoder"), with_prior(glass, "gan", encoder="encoder")),
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
