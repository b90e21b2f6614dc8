"""One training loop for every embedded model: resumable, deterministic, with an exponential moving average.

A run is a folder: `checkpoint.safetensors` (everything that resuming needs), `log.csv`, `evaluations.csv`,
`curve.png`, `samples.png`.
The batch and every random draw of step `s` depend on `(seed, s)` alone, so an interrupted run goes on exactly as if it had
not been. The learning rate is warm-up, constant, linear decay ("WSD", https://arxiv.org/abs/2404.06395): a run can be
continued with more steps, or brought to its end early with fewer, from the same checkpoint.
"""

from __future__ import annotations

import csv
import json
import math
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from dragkit.cache import write_tensors
from dragkit.devices import pick_device
from dragkit.images import save_image

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class TrainConfig:
    """Length and pace of a run.

    Attributes:
        steps: length of the run; more than before continues it, fewer brings it to its end early.
        batch: photos per step.
        lr: learning rate between warm-up and decay.
        warmup: steps over which the learning rate rises.
        decay: share of the steps over which the learning rate falls to zero.
        weight_decay: of the optimisers.
        clip: largest norm of the gradient.
        ema: decay of the average of the weights.
        seed: of the weights, the batches and every random draw.
        device: cpu, cuda, or auto for the best there is.
        save_every: seconds from one checkpoint to the next.
        minutes: end, and decay, by the clock instead of by the steps; such a run cannot be repeated exactly.

    Raises:
        ValueError: a field that cannot work.
    """

    steps: int
    batch: int
    lr: float
    warmup: int = 200
    decay: float = 0.3
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    device: str = "auto"
    save_every: float = 300.0
    minutes: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("warmup", 0), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is {value!r}; it must be an integer of at least {least}")
        for name in ("lr", "clip", "save_every") + (("minutes",) if self.minutes is not None else ()):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive and finite")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay is {self.weight_decay}; it must be at least 0 and finite")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay is {self.decay}; it is the share of the steps, in (0, 1]")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; it must be at least 0 and below 1")

    def progress(self, step: int, seconds: float) -> float:
        """Share of the run that is done, 0 to 1."""
        return min(
            1.0, step / self.steps if self.minutes is None else max(seconds / 60 / self.minutes, step / self.steps)
        )

    def lr_factor(self, step: int, progress: float) -> float:
        """Multiple of `lr` at `step`."""
        return max(0.0, min(1.0, (step + 1) / max(1, self.warmup), (1 - progress) / self.decay))


def quick_attention(model: Any, device: torch.device) -> None:
    """The attention of a transformers model that trains fastest: on CPUs the fused one takes twice the time at 65 tokens."""
    model.set_attn_implementation("eager" if device.type == "cpu" else "sdpa")


class Task(ABC):
    """What is trained: the model, its data, its loss and how to judge it. One subclass per embedded model."""

    model: Any  # nn.Module; Any because the tasks call the methods of its own class

    @abstractmethod
    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Loss of the batch of `step` and what to log."""

    @abstractmethod
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Figures on validation photos, with the averaged weights."""

    def samples(self, model: nn.Module) -> Tensor | None:
        """Images `(3, H, W)` in [0, 1] to look at, or None."""
        return None

    def optimizers(self, config: TrainConfig) -> list[Optimizer]:
        """What steps the weights; AdamW on all of them unless a task says otherwise."""
        return [torch.optim.AdamW(self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay)]


def batch_indices(n: int, batch: int, step: int, seed: int) -> Tensor:
    """Indices of the photos in batch `step`: each epoch is a permutation of `range(n)` that depends on (seed, epoch) only.

    Raises:
        ValueError: a batch larger than the data.
    """
    if batch > n:
        raise ValueError(f"batch is {batch}; there are only {n} photos")
    per_epoch = n // batch
    epoch, position = divmod(step, per_epoch)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    return order[position * batch : (position + 1) * batch]


def autocast(device: torch.device) -> torch.autocast:
    """bf16 where the hardware has it (CUDA, CPUs with AVX512-BF16 or AMX); elsewhere a context that changes nothing."""
    native = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=bool(native))


def fit(task: Task, config: TrainConfig, folder: Path, *, show: bool = True) -> nn.Module:
    """Train `task` in `folder`, going on from its checkpoint when there is one. Returns the averaged model.

    Ctrl-C saves a checkpoint before it stops the run; the same command continues it.

    Raises:
        FloatingPointError: the loss is not finite; the checkpoint on disk is from before.
    """
    device = pick_device(config.device)
    task.model.to(device).train()
    average = AveragedModel(task.model, multi_avg_fn=_ema(config.ema), use_buffers=True)
    optimizers = task.optimizers(config)
    base_lrs = [[group["lr"] for group in o.param_groups] for o in optimizers]
    step, spent, rows = _restore(folder, task.model, average, optimizers)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=1) + "\n")

    window: dict[str, list[float]] = {}
    first, started = step, time.monotonic()
    saved = started

    def save() -> None:
        _save(folder, task.model, average, optimizers, step, spent + time.monotonic() - started, rows)

    bar = tqdm(total=config.steps, initial=step, disable=not show, mininterval=10, desc=folder.name)
    try:
        while (progress := config.progress(step, spent + time.monotonic() - started)) < 1:
            for optimizer, lrs in zip(optimizers, base_lrs, strict=True):
                for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                    group["lr"] = lr * config.lr_factor(step, progress)
            figures = _learn(task, config, optimizers, step, device)
            average.update_parameters(task.model)
            step += 1
            bar.update()
            for name, value in figures.items():
                window.setdefault(name, []).append(value)
            if step % 100 == 0:
                means = {name: sum(values) / len(values) for name, values in window.items()}
                rows.append({"step": step, "seconds": round(spent + time.monotonic() - started, 1), **means})
                bar.set_postfix({name: f"{value:.4g}" for name, value in means.items()})
                window.clear()
            if time.monotonic() - saved > config.save_every:
                save()
                _report(folder, task, average.module, rows, step)
                task.model.train()
                saved = time.monotonic()
        if step > first:
            save()
            _report(folder, task, average.module, rows, step)
    except KeyboardInterrupt:
        save()
        raise
    finally:
        bar.close()
    return average.module.eval()


def _learn(
    task: Task, config: TrainConfig, optimizers: list[Optimizer], step: int, device: torch.device
) -> dict[str, float]:
    """One step of all optimisers; what to log of it.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    generator = torch.Generator().manual_seed(config.seed * 7_368_787 + step)
    with autocast(device):
        loss, logged = task.loss(step, generator)
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss.item()} at step {step}; lower --lr and run the command again")
    loss.backward()
    norm = nn.utils.clip_grad_norm_(task.model.parameters(), config.clip)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return {"loss": loss.item(), "grad_norm": norm.item(), **logged}


def _ema(decay: float):
    """Exponential moving average that starts as a plain mean, so that short runs are not dominated by the initial weights."""

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        n = int(count)
        rate = 1 - min(decay, (1 + n) / (10 + n))
        for a, c in zip(averaged, current, strict=True):
            a.lerp_(c.to(a.dtype), rate) if a.is_floating_point() else a.copy_(c)

    return update


def _tensors(prefix: str, state: dict) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": value.detach().contiguous().clone() for name, value in state.items()}


def _save(folder: Path, model, average, optimizers, step: int, spent: float, rows: list[dict]) -> None:
    """Write the checkpoint; a process that is killed meanwhile leaves the previous one whole."""
    tensors = _tensors("model", model.state_dict()) | _tensors("average", average.state_dict())
    for i, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= _tensors(f"optimizer/{i}/{index}", {k: torch.as_tensor(v) for k, v in state.items()})
    state = {"step": step, "seconds": spent, "log": rows}
    write_tensors(folder / CHECKPOINT, tensors, {name: json.dumps(value) for name, value in state.items()})


def saved_state(folder: Path) -> dict[str, Any]:
    """`step`, `seconds` and `log` (a row per 100 steps) of the checkpoint of a run.

    Raises:
        FileNotFoundError: the run has no checkpoint yet.
    """
    with safe_open(folder / CHECKPOINT, "pt") as file:
        return {name: json.loads(value) for name, value in file.metadata().items()}


def _restore(folder: Path, model, average, optimizers) -> tuple[int, float, list[dict]]:
    if not (folder / CHECKPOINT).exists():
        return 0, 0.0, []
    tensors, state = load_file(folder / CHECKPOINT), saved_state(folder)

    def part(prefix: str) -> dict[str, Tensor]:
        return {k[len(prefix) + 1 :]: v for k, v in tensors.items() if k.startswith(prefix + "/")}

    model.load_state_dict(part("model"))
    average.load_state_dict(part("average"))
    for i, optimizer in enumerate(optimizers):
        flat = part(f"optimizer/{i}")
        indices = {int(k.split("/")[0]) for k in flat}
        restored = {j: {k.split("/")[1]: v for k, v in flat.items() if k.startswith(f"{j}/")} for j in indices}
        optimizer.load_state_dict({"state": restored, "param_groups": optimizer.state_dict()["param_groups"]})
    return state["step"], state["seconds"], state["log"]


@torch.no_grad()
def _report(folder: Path, task: Task, model: nn.Module, rows: list[dict], step: int) -> None:
    """log.csv, curve.png, samples.png and the validation figures of this moment, appended to evaluations.csv."""
    model.eval()
    figures = {"step": step, **task.evaluate(model)}
    evaluations = folder / "evaluations.csv"
    fresh = not evaluations.exists()
    with evaluations.open("a", newline="") as f:
        writer = csv.DictWriter(f, figures)
        if fresh:
            writer.writeheader()
        writer.writerow(figures)
    if rows:
        names = list(dict.fromkeys(name for row in rows for name in row))
        with (folder / "log.csv").open("w", newline="") as f:
            writer = csv.DictWriter(f, names)
            writer.writeheader()
            writer.writerows(rows)
        _curve(folder / "curve.png", rows)
    samples = task.samples(model)
    if samples is not None:
        save_image(samples, folder / "samples.png")


def _curve(path: Path, rows: list[dict]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss (mean of 100 steps)")
    axes.plot([r["step"] for r in rows], [r["loss"] for r in rows])
    figure.savefig(path, dpi=120)
