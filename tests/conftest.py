"""Fixtures that every test folder may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before any import of a library that reads it: no test may go to a hub

import pytest


@pytest.fixture(scope="session")
def tiny_sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny checkpoint in the layout of Stable Diffusion v1.5."""
    from unit import tiny

    return tiny.write_sd15(tmp_path_factory.mktemp("tiny") / "sd15")


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny unconditional latent prior (64-px images, latents (16, 8, 8))."""
    from unit import tiny

    return tiny.write_prior(tmp_path_factory.mktemp("tiny") / "prior")


@pytest.fixture(scope="session")
def tiny_client(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny_client(kind)`: folder of a tiny vision model, written when first asked for; kinds are `tiny.CLIENTS`."""
    from unit import tiny

    root = tmp_path_factory.mktemp("tiny-clients")

    def folder(kind: str) -> Path:
        path = root / kind
        return path if path.exists() else tiny.write_client(kind, path)

    return folder
