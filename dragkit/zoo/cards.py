"""The cards of the embedded models: where their files lie, what is known of them, and whether they are intact."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from dragkit.cache import cache_dir, write_json

FOLDER = Path(__file__).parent

PRIOR = "imagenette64"
PIXEL_PRIOR = "pixel64"
CLIENT = "vit-imagenette64"
WILD_CLIENT = "focus-vit-s14"
CLIENTS = (CLIENT, WILD_CLIENT)
GAN = "gan64"


def names() -> list[str]:
    """Names of the models that are shipped, e.g. "imagenette64/vae"."""
    return sorted(card.parent.relative_to(FOLDER).as_posix() for card in FOLDER.rglob("card.json"))


def find(name: str) -> Path:
    """Folder of a model: shipped with the package, or else exported by a training run on this machine.

    Raises:
        ValueError: neither; the message lists those that are shipped.
    """
    for folder in (FOLDER / name, cache_dir() / "runs" / name.replace("/", "-") / "export"):
        if (folder / "card.json").exists():
            return folder
    raise ValueError(f"no embedded model is called {name!r}; there are {', '.join(names()) or 'none yet'}")


def trained(prefix: str, kind: str) -> list[str]:
    """Names of the models of a class (as in their cards) that begin with `prefix`, shipped or exported on this machine."""
    exported = [json.loads(path.read_text()) for path in (cache_dir() / "runs").glob("*/export/card.json")]
    known = {one["name"]: one["class"] for one in [*exported, *(card(name) for name in names())]}
    return sorted(name for name, made in known.items() if name.startswith(prefix) and made == kind)


def available(name: str) -> bool:
    """Whether `find` finds it."""
    try:
        return bool(find(name))
    except ValueError:
        return False


def card(name: str) -> dict[str, Any]:
    """What is known about a model: data, licence, command, measured quality, checksums.

    Raises:
        ValueError: `find` does not find it.
    """
    return json.loads((find(name) / "card.json").read_text())


def update_card(name: str, changes: dict[str, Any]) -> None:
    """Change fields of a card on disk."""
    known = card(name)
    write_json(find(name) / "card.json", {**known, **changes})


@lru_cache(maxsize=16)
def verify(name: str) -> Path:
    """Folder of a model whose files are what its card says.

    Raises:
        ValueError: unknown name, or a file that is missing or differs (a broken download, a Git LFS pointer).
    """
    for file, sha256 in card(name)["sha256"].items():
        path = find(name) / file
        if not path.exists():
            raise ValueError(f"embedded model {name!r} lacks {file}; reinstall dragkit")
        if file_sha256(path) != sha256:
            raise ValueError(
                f"{path} is not the file its card describes; reinstall dragkit, or train the model again: {card(name)['command']}"
            )
    return find(name)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal, as cards hold it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -- names that say what a model was trained for -----------------------------------------------------------------------


def inverse_name(client: str, at: str, defence: str = "") -> str:
    """Name of the inverse network of a client cut at `at`, e.g. "inverse/vit-imagenette64/block-9".

    `defence`: spec of the defence it was trained against; "gaussian:0.5" adds "+gaussian-0.5".
    """
    return f"inverse/{client}/{at}{f'+{defence}' if defence else ''}".replace(":", "-")


def server_name(client: str, at: str, defence: str) -> str:
    """Name of the ViT whose server half was trained for a defence, e.g. "server/vit-imagenette64/block-6+gaussian-1.0"."""
    return f"server/{client}/{at}+{defence}".replace(":", "-")


def encoder_name(client: str, at: str) -> str:
    """Name of the encoder of GLASS++ for a client cut at `at`, e.g. "gan64-encoder/vit-imagenette64/block-9"."""
    return f"{GAN}-encoder/{client}/{at}".replace(":", "-")
