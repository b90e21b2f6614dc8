"""A store that never does the same work twice.

A result is published under the hash of its JSON specification by one atomic rename, so that a killed run loses at most the batch it
was working on and a second run does nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from dragkit.provenance import provenance


def cache_dir() -> Path:
    """Folder for decoded data and training runs: `$DRAGKIT_CACHE`, else `~/.cache/dragkit`. Created when missing."""
    folder = Path(os.environ.get("DRAGKIT_CACHE") or Path.home() / ".cache" / "dragkit")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def publish(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors to `file` aside and rename: no reader sees half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
    partial.replace(file)


def place(store: Path, spec: dict[str, Any]) -> Path:
    """Folder of the result of `spec`."""
    key = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:24]
    return store / key[:2] / key


def made_on(store: Path, spec: dict[str, Any]) -> str:
    """The device on which the stored result of `spec` was computed."""
    return json.loads((place(store, spec) / "made.json").read_text())["device"]


def remember(store: Path, spec: dict[str, Any], work: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors `work()` gives for `spec`: loaded when they were published before, otherwise computed and published."""
    folder = place(store, spec)
    if not folder.exists():
        tensors = work()
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".partial-"))
        save_file({name: t.contiguous() for name, t in tensors.items()}, partial / "result.safetensors")
        (partial / "spec.json").write_text(json.dumps(spec, indent=1, sort_keys=True))
        (partial / "made.json").write_text(json.dumps(provenance(), indent=1))
        try:
            os.rename(partial, folder)
        except OSError:  # another process was first: same specification, same result
            shutil.rmtree(partial)
    return load_file(folder / "result.safetensors")
