"""Where work lies that is not done twice, results by specification, features and photos by content; and how files are written.

Everything is written beside its place and renamed, so that a killed run or a full disk never leaves half of a file under its name.
What is damaged nevertheless is found when it is read, and made again. torch is loaded only where tensors are read or written: the
names and cards of the zoo do without.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def cache_dir() -> Path:
    """Folder for decoded data and training runs: `$DRAGKIT_CACHE`, else `~/.cache/dragkit`. Created when missing."""
    folder = Path(os.environ.get("DRAGKIT_CACHE") or Path.home() / ".cache" / "dragkit")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# -- written aside, then renamed -----------------------------------------------------------------------------------------


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file or a folder to; renamed to `path` when the block ends well, removed when it does not.

    An existing file is replaced. An existing folder is kept, and what was written is dropped: whoever was first has made the same.

    Raises:
        OSError: the disk is full; the message says what to do. Nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        try:
            partial.replace(path)
        except OSError:
            if not (partial.is_dir() and path.is_dir()):
                raise
    except Exception as error:
        if _disk_is_full(error):
            raise OSError(
                errno.ENOSPC,
                f"no space is left for {path}; free some, or name another place (DRAGKIT_CACHE moves the cache)",
            ) from error
        raise
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, aside and then renamed."""
    with written_aside(path) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n")


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, aside and then renamed."""
    from safetensors.torch import save_file

    with written_aside(path) as partial:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, partial, metadata)


def _disk_is_full(error: Exception) -> bool:
    """Whether it is that; safetensors has only a text for it."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error)


# -- done once -----------------------------------------------------------------------------------------------------------


def load_or_make(file: Path, work: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors in `file`; where it is missing or damaged they come from `work()`, and are written."""
    stored = _intact(file)
    if stored is None:
        write_tensors(file, work())
        stored = _intact(file)
    assert stored is not None
    return stored


def place(store: Path, spec: dict[str, Any]) -> Path:
    """Folder of the result of `spec`."""
    key = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:24]
    return store / key[:2] / key


def made_on(store: Path, spec: dict[str, Any]) -> str:
    """The device on which the stored result of `spec` was computed."""
    return json.loads((place(store, spec) / "made.json").read_text())["device"]


def remember(store: Path, spec: dict[str, Any], work: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors `work()` gives for `spec`: loaded when they were stored before, otherwise computed and stored.

    A result lies in a folder of its own, under the hash of its JSON specification, beside that specification and where it was made.
    """
    from dragkit.provenance import provenance

    folder = place(store, spec)
    stored = _intact(folder / "result.safetensors")
    if stored is None:
        shutil.rmtree(folder, ignore_errors=True)  # a damaged result would otherwise keep its place
        tensors = work()
        with written_aside(folder) as partial:
            write_tensors(partial / "result.safetensors", tensors)
            (partial / "spec.json").write_text(json.dumps(spec, indent=1, sort_keys=True))
            (partial / "made.json").write_text(json.dumps(provenance(), indent=1))
        stored = _intact(folder / "result.safetensors")
    assert stored is not None
    return stored


def _intact(file: Path) -> dict[str, Tensor] | None:
    """What a file of tensors holds; None where it is missing or, with a warning, damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.exists():
        return None
    try:
        return load_file(file)
    except SafetensorError as error:
        warnings.warn(f"{file} is damaged ({error}); it is made again", stacklevel=3)
        return None


def digest(*parts: object) -> str:
    """sha256 of tensors by dtype, shape and bytes, wherever they lie, and of anything else by its `repr`."""
    import torch

    content = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            content.update(repr((part.dtype, tuple(part.shape))).encode())
            content.update(_bytes(part))
        else:
            content.update(repr(part).encode())
        content.update(b"\0")  # 1, 23 is not 12, 3
    return content.hexdigest()


def weights_digest(model: nn.Module) -> str:
    """sha256 of all weights and buffers of a model, by name: what is stored under it holds for this very model."""
    content = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(_bytes(tensor))
    return content.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    import torch

    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
