"""SplitClient: two halves that make the model, in every family of networks; what it refuses; what it says of its IR."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from functools import cache

import pytest
import timm
import tiny
import torch
import torchvision
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from dragkit.client import SplitClient, block_path
from dragkit.images import resize_images


class SharedReLU(nn.Module):
    """A user's network: an activation used on both sides of the cut, position embeddings added in plain code."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 8, 8)
        self.act = nn.ReLU()
        self.position = nn.Parameter(torch.randn(1, 8, 4, 4))
        self.layers = nn.Sequential(
            *[nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)) for _ in range(3)]
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.act(self.stem(x)) + self.position
        for layer in self.layers:
            x = self.act(layer(x))
        return {"logits": self.head(x.mean((2, 3)))}


def build(family: str) -> nn.Module:
    t = torchvision.models
    makers = {
        "hf-resnet": lambda: transformers.ResNetModel(
            transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="bottleneck")
        ),
        "timm-swin": lambda: timm.create_model(
            "swin_tiny_patch4_window7_224", img_size=32, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(1, 2)
        ),
        "timm-convnext": lambda: timm.create_model(
            "convnext_atto", depths=(1, 2, 1, 1), dims=(8, 16, 16, 16), num_classes=5
        ),
        "timm-mixer": lambda: timm.models.mlp_mixer.MlpMixer(
            img_size=32, patch_size=8, num_blocks=3, embed_dim=16, num_classes=5
        ),
        "timm-eva": lambda: timm.create_model(
            "eva02_tiny_patch14_224", img_size=28, patch_size=7, embed_dim=24, depth=3, num_heads=2, num_classes=5
        ),
        "timm-resnet": lambda: timm.models.resnet.ResNet(timm.models.resnet.BasicBlock, [1, 2, 1, 1], num_classes=5),
        "tv-vit": lambda: t.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=5),
        "tv-swin": lambda: t.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], num_classes=5),
        "tv-resnet": lambda: t.ResNet(t.resnet.BasicBlock, [1, 2, 1, 1], num_classes=5),
        "user-sequential": lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(6272, 4)
        ),
        "user-shared": SharedReLU,
    }
    torch.manual_seed(0)
    model = makers[family]() if family in makers else tiny.make_client(family)
    if family == "timm-eva":  # attention as sharp as a trained network's, so that positions matter
        for block in model.blocks:
            block.attn.qkv.weight.data *= 20
    heads = {"tv-vit": "heads.head", "timm-mixer": "head"}
    if family in heads:  # zero at the start, which tells nothing about any cut
        nn.init.normal_(model.get_submodule(heads[family]).weight)
    return model.eval()


@cache
def model_of(family: str) -> nn.Module:
    """Shared by the tests that only read it."""
    return build(family)


@dataclass(frozen=True)
class Case:
    family: str
    at: str
    kind: str
    prefix: int = 0
    equivariant: bool = False
    side: int = 32


CASES = [
    Case("clip", "vision_model.pre_layrnorm", "BND", 1, True),
    Case("clip", "vision_model.encoder.layers.0", "BND", 1, True),
    Case("clip", "block:3", "BND", 1, True),
    Case("dinov2", "embeddings", "BND", 1, True, side=56),
    Case("dinov2", "block:1", "BND", 1, True, side=56),
    Case("dinov2-registers", "block:2", "BND", 5, True, side=56),
    Case("vit", "block:0", "BND", 1, True),
    Case("vit-classifier", "vit.layers.1", "BND", 1, True),
    Case("siglip", "block:1", "BND", 0, True),
    Case("swin", "encoder.layers.0.blocks.0", "BND"),
    Case("swin", "encoder.layers.0", "BND"),
    Case("convnextv2", "encoder.stages.1", "BCHW", 0, True),  # only pooling comes after it
    Case("convnextv2", "encoder.stages.0.layers.1", "BCHW"),
    Case("convnextv2", "block:1", "BCHW"),
    Case("hf-resnet", "block:1", "BCHW", side=64),
    Case("timm-vit", "patch_embed", "BND", 0),
    Case("timm-vit", "block:0", "BND", 1, True),
    Case("timm-vit", "blocks.1", "BND", 1, True),
    Case("timm-swin", "layers.0.blocks.1", "BHWC"),
    Case("timm-convnext", "block:1", "BCHW"),
    Case("timm-mixer", "blocks.1", "BND"),
    Case("timm-eva", "blocks.1", "BND", 1, False, side=28),
    Case("timm-resnet", "layer2", "BCHW", side=64),
    Case("tv-vit", "block:0", "BND", 1, True),
    Case("tv-vit", "encoder.layers.encoder_layer_1", "BND", 1, True),
    Case("tv-swin", "features.0", "BHWC", side=64),
    Case("tv-swin", "block:2", "BHWC", side=64),
    Case("tv-resnet", "block:2", "BCHW", side=64),
    Case("user-sequential", "1", "BCHW"),
    Case("user-shared", "block:0", "BCHW"),
    Case("user-shared", "act", "BCHW"),
    Case("user-shared", "layers.1", "BCHW"),
]


def plain(model: nn.Module, at: str, side: int = 32, **options) -> SplitClient:
    """A client that does not change the pixels of images of its own size."""
    return SplitClient(model, at, image_size=side, mean=(0, 0, 0), std=(1, 1, 1), **options)


def first(output) -> Tensor:
    return output if isinstance(output, Tensor) else next(iter(output.values()))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.family}-{case.at}")
def test_two_halves_make_the_model(case: Case) -> None:
    model = model_of(case.family)
    if case.at == "act":  # runs four times
        with pytest.raises(ValueError, match="act runs 4 times"):
            plain(model, case.at, case.side)
        return
    client = plain(model, case.at, case.side)
    images = torch.rand(3, 3, case.side, case.side, generator=torch.Generator().manual_seed(5)).requires_grad_()
    h = client(images)
    assert h.shape == (3, *client.h_shape)
    want, got = first(model(images)), client.server(h)
    torch.testing.assert_close(got, want)
    weight = torch.randn(want.shape, generator=torch.Generator().manual_seed(6))
    (gradient,) = torch.autograd.grad((want * weight).sum(), images)
    (through_cut,) = torch.autograd.grad((got * weight).sum(), images)
    assert gradient.abs().max() > 0
    torch.testing.assert_close(through_cut, gradient, rtol=1e-3, atol=1e-5 * gradient.abs().max().item())

    layout = client.layout
    assert (layout.kind, layout.prefix_tokens, layout.permutation_equivariant) == (
        case.kind,
        case.prefix,
        case.equivariant,
    )
    tokens = client.tokens(h)
    assert tokens.ndim == 3
    assert tokens.numel() == h.numel()
    channels = h.shape[1] if case.kind == "BCHW" else h.shape[-1]
    assert tokens.shape[-1] == channels


def test_tokens_of_maps_run_row_by_row() -> None:
    client = plain(model_of("timm-resnet"), "layer2", 64)
    h = client(torch.rand(1, 3, 64, 64))
    torch.testing.assert_close(client.tokens(h)[:, 8 * 2 + 5], h[:, :, 2, 5])
    swin = plain(model_of("timm-swin"), "layers.0.blocks.1")
    h = swin(torch.rand(1, 3, 32, 32))
    torch.testing.assert_close(swin.tokens(h)[:, 8 * 2 + 5], h[:, 2, 5])


# -- cuts that are refused


@pytest.mark.parametrize(
    ("family", "at", "side"),
    [
        ("vit-classifier", "vit.layers.1.mlp", 32),
        ("clip", "vision_model.encoder.layers.1.self_attn", 32),
        ("timm-vit", "blocks.1.attn", 32),
        ("timm-resnet", "layer2.0.bn2", 64),
        ("timm-convnext", "stages.1.blocks.0.mlp", 32),
    ],
)
def test_a_cut_inside_a_residual_branch_is_refused(family: str, at: str, side: int) -> None:
    with pytest.raises(ValueError, match=f"bypasses {at}"):
        plain(model_of(family), at, side)


def test_a_refused_cut_leaves_the_model_as_it_was() -> None:
    model = build("timm-vit")
    images = torch.rand(2, 3, 32, 32)
    want = model(images)
    with pytest.raises(ValueError, match="bypasses"):
        plain(model, "blocks.1.attn")
    torch.testing.assert_close(model(images), want, rtol=0, atol=0)
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in m.__dict__ for m in model.modules())
    assert plain(model, "blocks.1.attn", check=False).h_shape == (17, 16)


def test_an_output_that_ignores_the_cut_is_refused() -> None:
    model = build("vit-classifier")
    nn.init.zeros_(model.classifier.weight)
    with pytest.raises(ValueError, match="does not depend on"):
        plain(model, "block:1")


# -- cost


@pytest.mark.parametrize(
    ("family", "at"), [("clip", "block:1"), ("timm-vit", "blocks.0"), ("swin", "encoder.layers.0")]
)
def test_nothing_after_the_cut_runs(family: str, at: str) -> None:
    model = build(family)
    client = plain(model, at)
    calls: Counter[str] = Counter()
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda m, a, name=name: calls.update([name]))
    client(torch.rand(2, 3, 32, 32))
    assert calls[client.module] == 1
    names = [name for name, module in model.named_modules() if module in set(client.cut._server_modules)]
    assert len(names) > 5
    assert not [name for name in names if calls[name]]


def test_the_server_uses_no_weight_of_the_client() -> None:
    model = build("vit-classifier")
    client = plain(model, "block:2")
    images = torch.rand(2, 3, 32, 32)
    h = client(images)
    want = client.server(h)
    for module in (model.vit.embeddings, model.vit.layers[0], model.vit.layers[1]):
        for parameter in module.parameters():
            parameter.fill_(torch.nan)
    torch.testing.assert_close(client.server(h), want, rtol=0, atol=0)


def test_the_server_takes_any_batch_size_and_the_model_still_works_whole() -> None:
    model = build("clip")
    client = plain(model, "block:2")
    images = torch.rand(5, 3, 32, 32)
    want = model(images, output_hidden_states=True)
    h = client(images)
    torch.testing.assert_close(client.server(h[:1]), want.image_embeds[:1])
    again = model(images, output_hidden_states=True)
    torch.testing.assert_close(again.image_embeds, want.image_embeds, rtol=0, atol=0)
    assert len(again.hidden_states) == len(want.hidden_states) == 4


# -- names


@pytest.mark.parametrize("family", ["clip", "dinov2", "vit", "siglip"])
def test_block_k_is_hidden_state_k(family: str) -> None:
    model = model_of(family)
    side = 56 if family == "dinov2" else 32
    images = torch.rand(2, 3, side, side)
    with torch.no_grad():
        states = model(images, output_hidden_states=True).hidden_states
    for k in range(4):
        torch.testing.assert_close(plain(model, f"block:{k}", side)(images), states[k])


@pytest.mark.parametrize(
    ("family", "count", "last"),
    [
        ("clip", 3, "vision_model.encoder.layers.2"),
        ("dinov2", 3, "encoder.layer.2"),
        ("vit", 3, "layers.2"),
        ("swin", 4, "encoder.layers.1.blocks.1"),
        ("convnextv2", 3, "encoder.stages.1.layers.0"),
        ("hf-resnet", 3, "encoder.stages.1.layers.1"),
        ("timm-vit", 3, "blocks.2"),
        ("timm-swin", 4, "layers.1.blocks.1"),
        ("timm-convnext", 5, "stages.3.blocks.0"),
        ("timm-resnet", 5, "layer4.0"),
        ("tv-vit", 3, "encoder.layers.encoder_layer_2"),
        ("tv-swin", 4, "features.3.1"),
        ("user-shared", 3, "layers.2"),
    ],
)
def test_blocks_are_found_in_every_library(family: str, count: int, last: str) -> None:
    model = model_of(family)
    assert block_path(model, count) == last
    with pytest.raises(ValueError, match=f"has {count} blocks"):
        block_path(model, count + 1)


def test_names_are_resolved_and_kept() -> None:
    client = plain(model_of("timm-vit"), "block:2")
    assert (client.at, client.module) == ("block:2", "blocks.1")
    assert client.blocks() == ["blocks.0", "blocks.1", "blocks.2"]
    start = plain(model_of("timm-vit"), "block:0")
    assert start.module == "input:blocks.0"
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(plain(model_of("timm-vit"), start.module)(images), start(images))
    assert repr(client) == "SplitClient(VisionTransformer at blocks.1 (block:2): 32x32 image -> BND (17, 16))"


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("vision_model.encoder.layer.1", r"near it: vision_model.encoder.layers.*blocks: block:0 to block:3"),
        ("encoder.layers.1", "near it: vision_model.encoder.layers.1"),
        ("", "no module of CLIPVisionModelWithProjection"),
        ("input:nowhere", "no module"),
        ("block:4", "has 3 blocks: use block:0 to block:3"),
        ("block:-1", "after 'block:' comes a number"),
        ("block:x", "after 'block:' comes a number"),
    ],
)
def test_unknown_names_say_what_there_is(at: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plain(model_of("clip"), at)


def test_a_network_without_blocks_says_so() -> None:
    with pytest.raises(ValueError, match="no repeated blocks"):
        plain(model_of("user-sequential"), "block:1")


# -- layout


def test_layout_is_asked_for_where_it_cannot_be_told() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Identity(), nn.Flatten(), nn.Linear(512, 2))
    with pytest.raises(ValueError, match="pass layout='BCHW' or 'BHWC'"):
        plain(model, "1")
    assert plain(model, "1", layout="BCHW").layout.kind == "BCHW"
    assert plain(model, "0").layout.kind == "BCHW"  # a convolution settles it
    with pytest.raises(ValueError, match=r"layout is 'BND', but the IR at 1 has the shape"):
        plain(model, "1", layout="BND")


def test_layout_follows_the_proportions_of_the_image() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(), nn.Linear(256, 2))
    assert SplitClient(model, "0", image_size=(64, 8)).layout.kind == "BCHW"  # IR (8, 16, 2)


def test_prefix_tokens_are_asked_for_where_they_cannot_be_told() -> None:
    model = nn.Sequential(nn.Conv2d(3, 7, 8, 8), nn.Flatten(2), nn.Flatten(), nn.Linear(112, 2))
    with pytest.raises(ValueError, match="7 tokens, not a square plus 0, 1 or 5"):
        plain(model, "1")
    assert plain(model, "1", prefix_tokens=3).layout.prefix_tokens == 3
    with pytest.raises(ValueError, match="prefix_tokens is 9"):
        plain(model, "1", prefix_tokens=9)


def test_vectors_have_one_token() -> None:
    client = plain(model_of("user-sequential"), "3")
    assert client.layout.kind == "BD"
    assert client.tokens(client(torch.rand(2, 3, 32, 32))).shape == (2, 1, 6272)


def test_equivariance_can_be_declared() -> None:
    assert not plain(model_of("timm-vit"), "block:1", permutation_equivariant=False).layout.permutation_equivariant


# -- images


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("source", "target"), [((64, 64), (28, 28)), ((50, 37), (32, 48)), ((16, 16), (56, 56))])
def test_resize_is_torchvisions_and_so_is_its_gradient(source, target, interpolation) -> None:
    images = torch.rand(2, 3, *source, requires_grad=True)
    got = resize_images(images, target, interpolation)
    want = tv.resize(images, list(target), interpolation=InterpolationMode(interpolation), antialias=True)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    weight = torch.randn_like(want)
    (ours,) = torch.autograd.grad((got * weight).sum(), images)
    (theirs,) = torch.autograd.grad((want * weight).sum(), images)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_resize_keeps_right_sized_images_and_does_not_clamp() -> None:
    images = torch.rand(1, 3, 32, 32)
    client = plain(model_of("timm-vit"), "block:1", interpolation="bicubic")
    assert client.resize(images) is images
    edges = (torch.arange(64) // 16 % 2).float().expand(1, 3, 64, 64)
    assert client.resize(edges).max() > 1
    assert client.resize(edges).dtype == torch.float32
    assert client.resize(edges.double()).dtype == torch.float64


def test_resize_made_in_inference_mode_can_be_differentiated_later() -> None:
    with torch.inference_mode():
        resize_images(torch.rand(1, 3, 41, 41), (23, 23))
    images = torch.rand(1, 3, 41, 41, requires_grad=True)
    resize_images(images, (23, 23)).square().sum().backward()
    assert images.grad is not None


def test_forward_resizes_clamps_and_normalises_in_this_order() -> None:
    model = model_of("timm-vit")
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    client = SplitClient(model, "block:3", image_size=32, mean=mean, std=std, interpolation="bicubic")
    images = torch.rand(2, 3, 48, 48) * 1.4 - 0.2
    pixels = tv.resize(images, [32, 32], interpolation=InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    torch.testing.assert_close(client.server(client(images)), model(tv.normalize(pixels, mean, std)))


def test_one_bad_image_does_not_spoil_the_batch() -> None:
    client = plain(model_of("timm-vit"), "block:2")
    images = torch.rand(2, 3, 32, 32)
    want = client(images)[1]
    images[0, 0, 0, 0] = torch.nan
    h = client(images)
    assert not h[0].isfinite().all()
    torch.testing.assert_close(h[1], want)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), TypeError, "torch.uint8"),
        ([[0.0]], TypeError, "images is a list"),
        (torch.zeros(3, 32, 32), ValueError, r"shape \(3, 32, 32\)"),
        (torch.zeros(1, 1, 32, 32), ValueError, r"must be \(B, 3, H, W\)"),
    ],
)
def test_wrong_images_are_named(images, error, message) -> None:
    with pytest.raises(error, match=message):
        plain(model_of("timm-vit"), "block:2")(images)


def test_the_server_refuses_another_ir() -> None:
    client = plain(model_of("timm-vit"), "block:2")
    for shape in ((2, 18, 16), (2, 17, 8), (2, 1, 16)):
        with pytest.raises(ValueError, match=r"this client's IR is \(B, 17, 16\)"):
            client.server(torch.zeros(shape))


def test_a_server_takes_fewer_tokens_only_if_it_ignores_their_order() -> None:
    model = model_of("timm-vit")
    free = plain(model, "block:2").server(torch.rand(2, 9, 16))
    assert len(free) == 2
    ordered = plain(model, "block:2", permutation_equivariant=False)
    with pytest.raises(ValueError, match=r"h is \(2, 9, 16\)"):
        ordered.server(torch.rand(2, 9, 16))


# -- construction


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size is 0"),
        ({"image_size": 40}, "is image_size right"),
        ({"mean": (0.5,)}, "mean is"),
        ({"std": (1, 1, 0)}, "every channel must be positive"),
        ({"interpolation": "nearest"}, "bilinear, bicubic"),
        ({"layout": "NCHW"}, "layout is 'NCHW'"),
    ],
)
def test_wrong_arguments_are_named(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        SplitClient(model_of("timm-vit"), "block:1", **{"image_size": 32, **options})


def test_wrong_types_are_named() -> None:
    with pytest.raises(TypeError, match="model is a str"):
        SplitClient("clip", "block:1", image_size=32)
    with pytest.raises(TypeError, match="at is a int"):
        SplitClient(model_of("timm-vit"), 3, image_size=32)


def test_broken_weights_are_named() -> None:
    model = build("timm-vit")
    model.blocks[1].mlp.fc1.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"parameter 'blocks.1.mlp.fc1.weight' .* NaN"):
        plain(model, "block:1")
    bn = build("tv-resnet")
    bn.bn1.running_mean[0] = torch.inf
    with pytest.raises(ValueError, match=r"buffer 'bn1.running_mean'"):
        plain(bn, "layer1")


def test_the_model_is_frozen_and_stays_in_eval_mode() -> None:
    client = plain(build("tv-resnet").train(), "layer2", 64)
    client.train()
    assert not any(module.training for module in client.model.modules())
    assert not any(parameter.requires_grad for parameter in client.parameters())


def test_double_precision_and_copies() -> None:
    client = plain(build("timm-vit"), "block:2")
    twin = copy.deepcopy(client).double()
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    assert twin(images).dtype == torch.float64
    torch.testing.assert_close(twin.server(twin(images)), twin.model(images))
    torch.testing.assert_close(twin(images).float(), client(images), rtol=1e-4, atol=1e-5)
    assert client.dtype == torch.float32


# -- the client alone


def test_free_server_leaves_a_working_client() -> None:
    model = build("timm-vit")
    client = plain(model, "blocks.0")
    images = torch.rand(2, 3, 32, 32)
    want, info = client(images), client.info()
    total = sum(p.numel() for p in model.parameters())
    assert info["client_parameters"] + info["server_parameters"] == total
    assert client.free_server() == info["server_parameters"] == total - info["client_parameters"] > total / 2
    assert sum(p.numel() for p in client.parameters()) == info["client_parameters"]
    torch.testing.assert_close(client(images), want, rtol=0, atol=0)
    assert client.double()(images.double()).dtype == torch.float64
    assert client.layout.permutation_equivariant
    assert client.free_server() == 0
    with pytest.raises(RuntimeError, match="freed"):
        client.server(want)


def test_info_counts_what_is_sent() -> None:
    info = plain(model_of("timm-vit"), "block:2", name="toy").info()
    assert (info["name"], info["at"], info["module"]) == ("toy", "block:2", "blocks.1")
    assert info["h_shape"] == (17, 16)
    assert info["bytes_per_query"] == 17 * 16 * 4


# -- published checkpoints


EXPECTED = {  # image side, interpolation, first mean, class
    "clip": (32, "bicubic", 0.48145466, "CLIPVisionModelWithProjection"),
    "clip-full": (32, "bicubic", 0.48145466, "CLIPVisionModelWithProjection"),
    "dinov2": (56, "bicubic", 0.485, "Dinov2Model"),
    "dinov2-registers": (56, "bicubic", 0.485, "Dinov2WithRegistersModel"),
    "vit": (32, "bilinear", 0.5, "ViTModel"),
    "vit-classifier": (32, "bilinear", 0.5, "ViTForImageClassification"),
    "siglip": (32, "bicubic", 0.5, "SiglipVisionModel"),
    "swin": (32, "bilinear", 0.485, "SwinModel"),
    "convnextv2": (32, "bicubic", 0.485, "ConvNextV2Model"),
    "timm-vit": (32, "bicubic", 0.4, "VisionTransformer"),
}


@pytest.mark.parametrize("kind", tiny.CLIENTS)
def test_from_pretrained(kind: str, tiny_client) -> None:
    client = SplitClient.from_pretrained(tiny_client(kind), "block:2")
    side, interpolation, mean, class_name = EXPECTED[kind]
    assert client.image_size == (side, side)
    assert client.interpolation == interpolation
    assert client.mean[0] == pytest.approx(mean)
    assert type(client.model).__name__ == class_name
    assert client.name == kind
    assert client.dtype == torch.float32
    with tiny.seeded():
        written = tiny.make_client(kind).state_dict()
    for name, value in client.model.state_dict().items():
        assert torch.equal(value, written[name]), name


def test_from_pretrained_dtype_and_image_size_are_explicit(tiny_client) -> None:
    client = SplitClient.from_pretrained(str(tiny_client("vit")), "block:1", dtype=torch.float64)
    assert client.dtype == client(torch.rand(1, 3, 64, 64)).dtype == torch.float64
    folder = tiny_client("timm-vit")
    larger = SplitClient.from_pretrained(f"local-dir:{folder}", "block:1", image_size=48)
    assert larger.h_shape == (1 + 36, 16)
    with pytest.raises(ValueError, match="is image_size right"):
        SplitClient.from_pretrained(tiny_client("vit"), "block:1", image_size=48)


def test_from_pretrained_says_what_to_do_when_files_are_missing(tmp_path, tiny_client) -> None:
    with pytest.raises(OSError, match=r"'nobody/nothing'.*config\.json.*download it"):
        SplitClient.from_pretrained("nobody/nothing", "block:1")
    with pytest.raises(OSError, match=r"has no config\.json"):
        SplitClient.from_pretrained(f"local-dir:{tmp_path}", "block:1")
    with pytest.raises(OSError, match=r"vit_tiny_patch16_224.*hub did not answer"):
        SplitClient.from_pretrained("timm:vit_tiny_patch16_224", "block:1")
    with pytest.raises(ValueError, match="no model 'vit_tiny_patch16_225'; near it: vit_tiny_patch16_224"):
        SplitClient.from_pretrained("timm:vit_tiny_patch16_225", "block:1")
    with pytest.raises(ValueError, match="no classifier 'resnet19'; near it: resnet18"):
        SplitClient.from_pretrained("torchvision:resnet19", "layer1")
    with pytest.raises(ValueError, match="library is 'keras'"):
        SplitClient.from_pretrained("x", "block:1", library="keras")


def test_from_pretrained_takes_safetensors_only(tmp_path, tiny_client) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text((tiny_client("vit") / name).read_text())
    torch.save(load_file(tiny_client("vit") / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        SplitClient.from_pretrained(tmp_path, "block:1")


def test_from_pretrained_refuses_missing_weights(tmp_path, tiny_client) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_text((tiny_client("vit") / name).read_text())
    weights = load_file(tiny_client("vit") / "model.safetensors")
    headless = {name: value for name, value in weights.items() if not name.startswith("pooler")}
    save_file(headless, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert SplitClient.from_pretrained(tmp_path, "block:1").model.pooler is None  # a head nobody trained is left out
    headless.pop(next(name for name in headless if "encoder.layer.1" in name))
    save_file(headless, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 3 weights of ViTModel: layers\.1"):
        SplitClient.from_pretrained(tmp_path, "block:1")


def test_from_pretrained_torchvision(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    weights = torchvision.models.get_model_weights("squeezenet1_1")["DEFAULT"]
    state = torchvision.models.squeezenet1_1().state_dict()
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(state, tmp_path / "hub" / "checkpoints" / weights.url.rsplit("/", 1)[1])
    client = SplitClient.from_pretrained("torchvision:squeezenet1_1", "features.3", image_size=64)
    assert torch.equal(client.model.state_dict()["features.0.weight"], state["features.0.weight"])
    assert (client.interpolation, client.mean, client.layout.kind) == ("bilinear", (0.485, 0.456, 0.406), "BCHW")
