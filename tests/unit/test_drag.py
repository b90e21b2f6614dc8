"""What an attack does when things go wrong or are switched off: failures, interruption, resuming, refusals, every setting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toys import SHAPE, LinearClient, N, photos, standard_prior, token_client

from dragkit.attacks.drag import DragState, drag
from dragkit.attacks.message import Message
from dragkit.attacks.reconstruction import Reconstruction
from dragkit.attacks.threat import ThreatModel
from dragkit.client import SplitClient
from dragkit.config import DragConfig
from dragkit.distance import Distance, cosine_distance
from dragkit.priors.diffusion import LatentPrior
from dragkit.streams import SeededNoise

SHORT = DragConfig(num_steps=6, recurrence=2)


def attack(
    config: DragConfig = SHORT,
    *,
    batch: int = 3,
    client: LinearClient | None = None,
    h: Tensor | None = None,
    mask: Tensor | None = None,
    distance: Distance = cosine_distance,
    **options,
) -> Reconstruction:
    client = client or token_client()
    h = token_client()(photos(batch)) if h is None else h
    return drag(Message(h, client, mask, distance), standard_prior(), config, **{"seeds": 0, **options})


# -- results


def test_result():
    result = attack()
    assert result.images.shape == (3, 3, 2, 2)
    assert ((result.images >= 0) & (result.images <= 1)).all()
    assert result.distance.shape == (3,)
    assert result.nfe == 12
    assert result.trace["distance"].shape == (12, 3)
    assert result.failed_at == [None] * 3
    assert not result.interrupted
    assert result.seconds > 0


def test_guidance_brings_the_distance_down():
    config = DragConfig(num_steps=30, recurrence=3)
    guided, free = attack(config, batch=8), attack(config.with_(guidance_rate=0.0), batch=8)
    assert guided.distance.mean() < 0.5 * free.distance.mean()


def test_repr_prints_the_threat_model():
    result = attack(threat=ThreatModel(public_data=True))
    text = repr(result)
    for part in (
        "3 images 2x2",
        "nfe 12",
        "honest-but-curious server",
        "the client's weights, public photos",
        "sees one IR",
        "never the photo",
    ):
        assert part in text
    assert "failed" not in text
    assert "interrupted" not in text


def test_same_seed_same_result_other_seed_other_result():
    assert torch.equal(attack(seeds=[1, 2, 3]).images, attack(seeds=1).images)
    assert not torch.equal(attack(seeds=1).images, attack(seeds=4).images)


def test_noise_can_be_injected():
    assert torch.equal(attack(noise=SeededNoise([0, 1, 2], torch.float64)).images, attack(seeds=0).images)


@pytest.mark.parametrize(
    ("given", "state"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_precision_follows_h(given, state):
    seen: list[DragState] = []
    h = token_client()(photos(2)).to(given)
    result = attack(h=h, callback=lambda s: seen.append(s) is not None)
    assert result.images.dtype == seen[0].z.dtype == seen[0].adam.m.dtype == state
    assert torch.isfinite(result.distance).all()


def test_h_is_left_alone():
    h = token_client()(photos(2)).requires_grad_(True)
    before = h.detach().clone()
    result = attack(h=h)
    assert torch.equal(h, before)
    assert h.grad is None
    assert not result.images.requires_grad


# -- failures stay with their image


class Breaking(LinearClient):
    """Breaks one image at one call (counted from 1): its representation, or only the gradient through it."""

    def __init__(self, image: int, call: int, gradient_only: bool):
        super().__init__(token_client().matrix, tokens=3)
        self.image, self.call, self.gradient_only = image, call, gradient_only

    def __call__(self, images: Tensor) -> Tensor:
        h = super().__call__(images)
        if self.calls != self.call:
            return h
        damage = torch.zeros(len(h), 1, 1, dtype=h.dtype)
        damage[self.image] = torch.nan
        if self.gradient_only:
            h.register_hook(lambda grad: grad + damage)
            return h
        return h + damage


@pytest.mark.parametrize("gradient_only", [False, True])
@pytest.mark.parametrize("call", [1, 5, 12])
def test_nan_stops_one_image_and_says_when(call, gradient_only):
    latents: list[Tensor] = []
    result = attack(client=Breaking(1, call, gradient_only), callback=lambda s: latents.append(s.z[1].clone()))
    assert result.failed_at == [None, call - 1, None]
    assert torch.isnan(result.distance[1])
    assert torch.isfinite(result.distance[[0, 2]]).all()
    assert torch.isfinite(result.images).all()
    assert "1 failed" in repr(result)
    clean = attack()
    assert torch.equal(result.images[[0, 2]], clean.images[[0, 2]])
    assert all(torch.equal(z, latents[call - 1]) for z in latents[call - 1 :])  # its last finite state is kept
    h = token_client()(photos(3))
    for i in (0, 2):
        alone = attack(h=h[i : i + 1], seeds=[i])
        torch.testing.assert_close(result.images[i : i + 1], alone.images, rtol=1e-9, atol=1e-9)


def test_all_images_failed_ends_the_run():
    client = Breaking(0, 3, False)
    result = attack(client=client, batch=1)
    assert result.failed_at == [2]
    assert result.nfe == 3
    assert not result.interrupted


# -- interruption, early stop, resuming


def stop_at(iteration: int, how: Callable[[], bool]) -> Callable[[DragState], bool]:
    return lambda state: how() if state.iteration == iteration else False


def press_ctrl_c() -> bool:
    raise KeyboardInterrupt


@pytest.mark.parametrize("how", [press_ctrl_c, lambda: True], ids=["ctrl-c", "callback"])
def test_interrupted_run_returns_the_best_so_far(how):
    best: list[Tensor] = []

    def callback(state: DragState) -> bool:
        best.append(state.best_x0.clone())
        return stop_at(7, how)(state)

    result = attack(callback=callback)
    assert result.interrupted
    assert "interrupted" in repr(result)
    assert result.nfe == 7
    assert result.trace["distance"].shape == (7, 3)
    torch.testing.assert_close(result.distance, result.trace["distance"].min(0).values, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(result.images, standard_prior().decode(best[-1]), rtol=1e-12, atol=0)


def test_stop_after_the_last_turn_is_no_interruption():
    result = attack(callback=stop_at(12, lambda: True))
    assert not result.interrupted
    assert torch.equal(result.images, attack().images)


def test_callback_sees_every_turn():
    seen: list[tuple[int, int, int, int]] = []
    attack(callback=lambda s: seen.append((s.iteration, s.total, s.t, s.turn)))
    assert [s[0] for s in seen] == list(range(1, 13))
    assert {s[1] for s in seen} == {12}
    assert [s[2] for s in seen] == [830, 830, 664, 664, 498, 498, 332, 332, 166, 166, 0, 0]
    assert [s[3] for s in seen] == [0, 1] * 6


@pytest.mark.parametrize("iteration", [1, 4, 7, 11])
def test_resumed_run_equals_an_uninterrupted_one(tmp_path, iteration):
    file = tmp_path / "deep" / "run.safetensors"
    first = attack(checkpoint=file, callback=stop_at(iteration, press_ctrl_c))
    assert first.interrupted
    assert [p.name for p in file.parent.iterdir()] == ["run.safetensors"]  # nothing half-written is left
    resumed, whole = attack(checkpoint=file), attack()
    assert torch.equal(resumed.images, whole.images)
    assert torch.equal(resumed.distance, whole.distance)
    assert resumed.nfe == whole.nfe


def test_resumed_run_remembers_failures(tmp_path):
    file = tmp_path / "run.safetensors"
    attack(client=Breaking(1, 2, False), checkpoint=file, callback=stop_at(4, press_ctrl_c))
    resumed = attack(checkpoint=file)
    assert resumed.failed_at == [None, 1, None]
    assert torch.equal(resumed.images[[0, 2]], attack().images[[0, 2]])


def test_finished_run_is_not_run_again(tmp_path):
    file = tmp_path / "run.safetensors"
    whole = attack(checkpoint=file)
    again = attack(checkpoint=file, callback=lambda s: pytest.fail("ran a turn"))
    assert torch.equal(again.images, whole.images)


@pytest.mark.parametrize("call", [3, 8])
def test_ctrl_c_inside_a_network_resumes_exactly(tmp_path, call):
    class Interrupting(LinearClient):
        def __call__(self, images: Tensor) -> Tensor:
            if self.calls == call:
                self.calls += 1
                raise KeyboardInterrupt
            return super().__call__(images)

    file = tmp_path / "run.safetensors"
    first = attack(client=Interrupting(token_client().matrix, tokens=3), checkpoint=file)
    assert first.interrupted
    assert torch.equal(attack(checkpoint=file).images, attack().images)


@pytest.mark.parametrize("draw", [3, 8])
def test_ctrl_c_between_gradient_and_step_resumes_exactly(tmp_path, draw):
    class Interrupting(SeededNoise):
        drawn = 0

        def draw(self, shape: tuple[int, ...]) -> Tensor:
            self.drawn += 1
            if self.drawn == draw:
                raise KeyboardInterrupt
            return super().draw(shape)

    file = tmp_path / "run.safetensors"
    first = attack(noise=Interrupting([0, 1, 2], torch.float64), checkpoint=file)
    assert first.interrupted
    assert torch.equal(attack(checkpoint=file).images, attack().images)


OTHER_ATTACKS = {
    "config": {"config": SHORT.with_(guidance_rate=0.3)},
    "photo": {"h": token_client()(photos(3, seed=9))},
    "batch": {"batch": 2},
    "seeds": {"seeds": 5},
    "order of the photos": {"h": token_client()(photos(3)).flip(0)},
    "mask": {"mask": torch.tensor([[True, True, False]] * 3)},
    "start": {"start": photos(3)},
    "distance": {"distance": lambda h_hat, h, mask: 2 * cosine_distance(h_hat, h, mask)},
    "client": {"client": LinearClient(1.5 * token_client().matrix, tokens=3)},
}


@pytest.mark.parametrize("change", OTHER_ATTACKS)
def test_checkpoint_of_another_attack_is_refused(tmp_path, change):
    file = tmp_path / "run.safetensors"
    attack(checkpoint=file, callback=stop_at(4, press_ctrl_c))
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"run\.safetensors was written by another attack"):
        attack(checkpoint=file, **OTHER_ATTACKS[change])
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", None])
def test_a_file_that_is_no_checkpoint_is_refused_and_left_alone(tmp_path, content):
    file = tmp_path / "notes.txt"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(ValueError, match=r"notes\.txt is not a checkpoint of an attack"):
        attack(checkpoint=file)
    assert content is None or file.read_bytes() == content


def test_what_is_no_message_is_refused():
    with pytest.raises(TypeError, match=r"message is a Tensor; it must be a Message\(h, client\)"):
        drag(token_client()(photos(1)), standard_prior(), SHORT)


def test_states_and_results_are_shown_in_a_line():
    shown = []
    result = attack(callback=lambda state: shown.append(repr(state)) or len(shown) == 2)
    assert shown[1].startswith("DragState(turn 2 of 12, distance ") and "tensor" not in shown[1]
    assert result != attack() and "\n" not in repr(result)


# -- refusals, before anything is computed


REFUSED = {
    "h axes": ({"h": torch.zeros(2, 12)}, ValueError, r"h has shape \(2, 12\); client 'linear' sends \(B, 3, 4\)"),
    "h tokens": ({"h": torch.zeros(2, 4, 3)}, ValueError, r"h has shape \(2, 4, 3\)"),
    "h nan": ({"h": torch.full((2, 3, 4), torch.nan)}, ValueError, "h holds NaN or infinite values"),
    "h inf": ({"h": torch.full((2, 3, 4), torch.inf)}, ValueError, "h holds NaN or infinite values"),
    "seeds": ({"seeds": [1, 2]}, ValueError, "seeds has 2 entries; the batch has 3 images"),
    "mask type": ({"mask": torch.ones(3, 3)}, TypeError, r"mask is torch\.float32; it must be bool"),
    "mask shape": ({"mask": torch.ones(3, 2, dtype=torch.bool)}, ValueError, r"mask is \(3, 2\); it must be \(3, 3\)"),
    "mask empty": ({"mask": torch.zeros(3, 3, dtype=torch.bool)}, ValueError, "mask leaves no token for image 0"),
    "start batch": ({"start": photos(2)}, ValueError, r"start is \(2, 3, 2, 2\); it must be \(3, 3, 2, 2\)"),
    "start size": (
        {"start": torch.rand(3, 3, 4, 4)},
        ValueError,
        r"start is \(3, 3, 4, 4\); it must be \(3, 3, 2, 2\)",
    ),
    "start range": ({"start": photos(3) * 255}, ValueError, r"start must lie in \[0, 1\]"),
    "start bytes": ({"start": torch.zeros(3, 3, 2, 2, dtype=torch.uint8)}, TypeError, "start must be floating point"),
    "start one photo": ({"start": photos(3)[0]}, ValueError, r"start must have shape \(B, 3, H, W\)"),
    "strength": ({"config": SHORT.with_(strength=0.3)}, ValueError, r"strength is 0\.3 but there is no start image"),
    "threat": (
        {"threat": ThreatModel(weights=False, public_data=True)},
        PermissionError,
        "DRAG needs weights, which this threat model excludes",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_argument(case):
    options, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        attack(**options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": "sphere"}, "step is 'sphere'; it must be one of spherical, dps, ugd, mpgd"),
        ({"smoothing": "momentum"}, "smoothing is 'momentum'; it must be one of adam, none"),
        ({"rate_schedule": "cosine"}, "rate_schedule is 'cosine'; it must be one of constant, rising, falling"),
        ({"interpolation": "cubic"}, "interpolation is 'cubic'; it must be one of lerp, slerp"),
        ({"num_steps": 0}, "num_steps is 0; it must be between 1 and 1000"),
        ({"num_steps": 1001}, "num_steps is 1001"),
        ({"recurrence": 0}, "recurrence is 0"),
        ({"guidance_rate": -0.1}, "guidance_rate is -0.1"),
        ({"guidance_rate": 1.1}, "guidance_rate is 1.1; it must be at least 0, and at most 1 for spherical"),
        ({"eta": 1.5}, "eta is 1.5; it must be between 0 and 1"),
        ({"eta": 0.0}, "eta=0 has none; choose eta above 0"),
        ({"step": "mpgd", "tweedie": False}, "mpgd takes its gradient at Tweedie's estimate"),
        ({"strength": 0.0}, r"strength is 0.0; it must be in \(0, 1\]"),
        ({"clip": 0.0}, "clip is 0.0; it must be positive, or None"),
    ],
)
def test_configuration_is_checked(change, message):
    with pytest.raises(ValueError, match=message):
        DragConfig(**change)
    with pytest.raises(ValueError, match=message):
        SHORT.with_(**change)


def test_presets():
    paper = DragConfig.paper()
    assert paper == DragConfig()
    assert (paper.num_steps, paper.recurrence, paper.guidance_rate, paper.eta, paper.clip) == (250, 16, 0.2, 1.0, 0.02)
    assert (paper.betas, paper.regularisation, paper.step, paper.smoothing) == ((0.9, 0.999), 0.01, "spherical", "adam")
    assert (paper.interpolation, paper.rate_schedule, paper.tweedie, paper.final_tweedie) == (
        "lerp",
        "constant",
        True,
        False,
    )
    for preset in (DragConfig.fast(), DragConfig.ci()):
        assert preset.with_(num_steps=250, recurrence=16) == paper
        assert preset.num_steps * preset.recurrence < 500


def test_rate_schedules():
    for name, expected in {"constant": (0.2, 0.2), "rising": (0.2, 0.02), "falling": (0.0, 0.18)}.items():
        config = DragConfig(rate_schedule=name)
        assert (config.rate_at(0, 1000), config.rate_at(900, 1000)) == pytest.approx(expected)


# -- every switch works and matters


SWITCHES = [
    {"num_steps": 7},
    {"recurrence": 3},
    {"recurrence": 1},
    {"step": "dps", "guidance_rate": 0.1},
    {"step": "ugd", "guidance_rate": 0.1},
    {"step": "mpgd", "guidance_rate": 0.1},
    {"guidance_rate": 0.0},
    {"guidance_rate": 1.0},
    {"rate_schedule": "rising"},
    {"rate_schedule": "falling"},
    {"interpolation": "slerp"},
    {"smoothing": "none"},
    {"betas": (0.5, 0.3)},
    {"clip": None},
    {"clip": 1e-3},
    {"eta": 0.5},
    {"step": "dps", "eta": 0.0},
    {"tweedie": False},
    {"regularisation": 0.0},
    {"final_tweedie": True},
]


@pytest.fixture(scope="module")
def base() -> Reconstruction:
    return attack()


@pytest.mark.parametrize("change", SWITCHES, ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items()))
def test_every_switch_runs_and_changes_the_result(change, base):
    result = attack(SHORT.with_(**change))
    assert torch.isfinite(result.images).all()
    assert torch.isfinite(result.distance).all()
    assert (result.images - base.images).abs().max() > 1e-9


def test_mask_changes_the_result(base):
    result = attack(mask=torch.tensor([[True, True, False]] * 3))
    assert not torch.equal(result.images, base.images)


def test_masked_tokens_do_not_matter():
    mask = torch.tensor([[True, True, False]] * 3)
    h = token_client()(photos(3))
    filled = torch.where(mask[..., None], h, 7.0)
    assert torch.equal(attack(h=h, mask=mask).images, attack(h=filled, mask=mask).images)


def test_windows_limit_recurrence_and_guidance():
    seen = []
    config = SHORT.with_(num_steps=10, recurrence=3, recurrence_window=(0.25, 0.65), guidance_window=(0.0, 0.5))
    found = attack(config, callback=lambda s: seen.append((s.t, s.turn, s.turns)))
    assert [t for t, turn, _ in seen if turn == 0] == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
    assert [t for t, _, turns in seen if turns == 3] == [t for t in (600, 500, 400, 300) for _ in range(3)]
    assert found.nfe == 6 + 4 * 3
    assert [config.rate_at(t, 1000) for t in (900, 501, 500, 0)] == [0, 0, config.guidance_rate, config.guidance_rate]
    whole = attack(config.with_(guidance_window=(0.0, 1.0)))
    assert not torch.equal(whole.images, found.images)
    with pytest.raises(ValueError, match="guidance_window is"):
        config.with_(guidance_window=(0.5, 0.5))


def test_strength_runs_the_end_of_the_diffusion():
    start = photos(3, seed=8)
    whole = attack(start=start)
    half = attack(SHORT.with_(strength=0.5), start=start)
    assert (whole.nfe, half.nfe) == (12, 6)
    seen: list[int] = []
    attack(SHORT.with_(strength=0.5), start=start, callback=lambda s: seen.append(s.t))
    assert seen == [332, 332, 166, 166, 0, 0]
    assert not torch.equal(half.images, attack(SHORT.with_(strength=0.5), start=photos(3, seed=10)).images)


def test_final_tweedie_decodes_the_clean_estimate():
    last: list[Tensor] = []
    attack(callback=lambda s: last.append(s.z.clone()))
    prior = standard_prior()
    a_0 = float(prior.alpha_bar[0])
    clean = (last[-1] - (1 - a_0) ** 0.5 * prior.predict_noise(last[-1], 0)) / a_0**0.5
    result = attack(SHORT.with_(final_tweedie=True))
    torch.testing.assert_close(result.images, prior.decode(clean), rtol=1e-9, atol=1e-9)


def test_without_tweedie_the_noisy_latent_is_measured():
    expected = SeededNoise([0, 1, 2], torch.float64).draw(SHAPE)
    h = token_client()(photos(3))
    seen = attack(SHORT.with_(tweedie=False)).trace["distance"][0]
    cosine = torch.nn.functional.cosine_similarity(token_client()(standard_prior().decode(expected)), h, dim=-1)
    torch.testing.assert_close(seen, 1 - cosine.mean(1), rtol=1e-9, atol=1e-9)


def test_own_distance_is_used():
    def squared(h_hat: Tensor, h: Tensor, mask: Tensor | None) -> Tensor:
        return (h_hat - h).square().mean((1, 2))

    result = attack(distance=squared)
    h = token_client()(photos(3))
    torch.testing.assert_close(result.distance, squared(token_client()(result.images), h, None), rtol=1e-6, atol=1e-9)


# -- what the networks see


@pytest.fixture(scope="module")
def networks(tiny_prior: Path, tiny_client: Callable[[str], Path]) -> tuple[LatentPrior, SplitClient, Tensor]:
    prior = LatentPrior.from_pretrained(tiny_prior)
    client = SplitClient.from_pretrained(tiny_client("vit"), "block:2")
    with torch.no_grad():
        h = client(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    return prior, client, h


def test_networks_get_no_gradients_and_nothing_after_the_cut_runs(networks):
    prior, client, h = networks
    ran: list[str] = []
    blocks = client.blocks()
    hooks = [
        client.model.get_submodule(name).register_forward_hook(lambda m, a, o, name=name: ran.append(name))
        for name in blocks
    ]
    result = drag(Message(h, client), prior, DragConfig(num_steps=2, recurrence=2), seeds=0)
    for hook in hooks:
        hook.remove()
    assert torch.isfinite(result.images).all()
    assert ran.count(blocks[0]) == 5  # once per turn and once for the final distance
    assert set(ran) <= set(blocks[:2])
    for network in (prior.unet, prior.vae, client.model):
        assert all(p.grad is None and not p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(("step", "differentiated"), [("spherical", True), ("mpgd", False)])
def test_mpgd_does_not_differentiate_the_noise_predictor(networks, monkeypatch, step, differentiated):
    prior, client, h = networks
    graphs: list[bool] = []
    real = prior.predict_noise

    def spy(z_t: Tensor, t: int) -> Tensor:
        eps = real(z_t, t)
        graphs.append(eps.requires_grad)
        return eps

    monkeypatch.setattr(prior, "predict_noise", spy)
    drag(Message(h, client), prior, DragConfig(num_steps=2, recurrence=1, step=step), seeds=0)
    assert graphs == [differentiated] * 2


def test_one_prediction_per_turn():
    prior, client = standard_prior(), token_client()
    h = client(photos(2))
    drag(Message(h, client), prior, SHORT, seeds=0)
    assert prior.calls == 12
    assert N == 12


# -- what a first review of the sampler found


def test_works_inside_no_grad_and_inference_mode():
    client, prior = token_client(), standard_prior()
    h = client(photos(3))
    expected = attack().images
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(drag(Message(h, client), prior, SHORT, seeds=0).images, expected)


def test_a_resumed_run_has_the_whole_trace_and_time(tmp_path):
    file = tmp_path / "run.safetensors"
    first = attack(checkpoint=file, callback=stop_at(4, lambda: True))
    resumed = attack(checkpoint=file)
    torch.testing.assert_close(resumed.trace["distance"], attack().trace["distance"], rtol=0, atol=0)
    assert resumed.seconds > first.seconds > 0
    assert torch.equal(attack(checkpoint=file).images, resumed.images)  # finished: nothing left to do


@pytest.mark.parametrize(
    ("h", "error", "message"),
    [
        ([[1.0]], TypeError, "h is list; it must be a floating-point tensor"),
        (torch.zeros(1, 3, 4, dtype=torch.int64), TypeError, "h is torch.int64"),
        (torch.zeros(0, 3, 4), ValueError, "h holds no image"),
    ],
)
def test_representations_that_are_none(h, error, message):
    with pytest.raises(error, match=message):
        attack(h=h)


@pytest.mark.parametrize(
    ("change", "error"),
    [({"betas": (1.0, 0.9)}, ValueError), ({"betas": (-0.5, 0.9)}, ValueError), ({"num_steps": 4.0}, TypeError)],
)
def test_config_refuses_what_would_fail_late(change, error):
    with pytest.raises(error, match=next(iter(change))):
        SHORT.with_(**change)
