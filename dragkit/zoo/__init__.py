"""The embedded models: small, trained by `dragkit train`, shipped with the package, each described by a card.

`load_prior()`, `load_client()` and their like check a model's files against its card before they are used. They are imported when
they are first asked for: names and cards cost no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dragkit.zoo.cards import (
    CLIENT,
    CLIENTS,
    FOLDER,
    GAN,
    PIXEL_PRIOR,
    PRIOR,
    WILD_CLIENT,
    available,
    card,
    encoder_name,
    file_sha256,
    find,
    inverse_name,
    names,
    server_name,
    trained,
    update_card,
    verify,
)

if TYPE_CHECKING:
    from dragkit.zoo.loading import load_client, load_gan, load_gan_encoder, load_inverse, load_pixel_prior, load_prior

__all__ = [
    "CLIENT",
    "CLIENTS",
    "FOLDER",
    "GAN",
    "PIXEL_PRIOR",
    "PRIOR",
    "WILD_CLIENT",
    "available",
    "card",
    "encoder_name",
    "file_sha256",
    "find",
    "inverse_name",
    "load_client",
    "load_gan",
    "load_gan_encoder",
    "load_inverse",
    "load_pixel_prior",
    "load_prior",
    "names",
    "server_name",
    "trained",
    "update_card",
    "verify",
]


def __getattr__(name: str) -> Any:
    if not name.startswith("load_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dragkit.zoo import loading

    return getattr(loading, name)


def __dir__() -> list[str]:
    return __all__
