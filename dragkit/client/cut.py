"""Cut any `nn.Module` in two at a named module: a client half that stops there and a server half that starts there.

The client half is a forward hook that raises, so nothing after the cut runs. The server half runs the model on a blank
image, with every module that finished before the cut replaced by a stub that returns zeros, and the cut by one that
returns the IR. A self-check refuses a cut that something bypasses (a residual connection, say), because there the IR is
not all that the server needs.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

INPUT = "input:"  # "input:NAME" cuts before the module NAME, plain "NAME" after it


class _Stop(Exception):
    """Carries the cut value out of the model's forward."""

    def __init__(self, value: Any):
        self.value = value


class _Event(NamedTuple):
    kind: Literal["enter", "leave"]
    module: nn.Module
    value: Any  # arguments on entering, output on leaving


def _map_tensors(value: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    """`value` with every tensor replaced by `fn(tensor)`, in tuples, lists, dicts and transformers' ModelOutputs."""
    if torch.is_tensor(value):
        return fn(value)
    if isinstance(value, dict):
        return type(value)(**{key: _map_tensors(item, fn) for key, item in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*[_map_tensors(item, fn) for item in value])
    if isinstance(value, (tuple, list)):
        return type(value)([_map_tensors(item, fn) for item in value])
    return value


def _replace_first(value: Any, new: Tensor, others: Callable[[Tensor], Tensor]) -> Any:
    """`value` with its first tensor replaced by `new` and all its other tensors by `others(tensor)`."""
    pending = [new]
    return _map_tensors(value, lambda tensor: pending.pop() if pending else others(tensor))


def first_tensor(value: Any) -> Tensor:
    """The first tensor inside a module's output (a tensor, tuple, list, dict or ModelOutput).

    Raises:
        ValueError: there is none.
    """
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _map_tensors(value, note)
    if not found:
        raise ValueError(f"the module returned no tensor but a {type(value).__name__}")
    return found[0]


def _block_lists(model: nn.Module) -> dict[str, nn.Module]:
    """The outermost lists of equal, non-trivial modules: name -> `ModuleList` or `Sequential`."""
    lists: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(outer == "" or name.startswith(f"{outer}.") for outer in lists)
        if inside or not isinstance(module, (nn.ModuleList, nn.Sequential)):
            continue
        children = list(module.children())
        if len({type(child) for child in children}) == 1 and all(any(child.children()) for child in children):
            lists[name] = module
    return lists


def block_names(model: nn.Module) -> list[str]:
    """Names of the repeated units of a network, first to last, whatever its library calls them.

    These are the transformer blocks of a ViT and the residual blocks of a ResNet. When the repeated modules differ in
    width they are the *stages* of a hierarchical network (Swin, ConvNeXt), whose blocks count. May be empty.
    """
    lists = _block_lists(model)
    by_class: dict[type, list[str]] = {}
    for name, module in lists.items():
        names = [f"{name}.{child}" if name else child for child, _ in module.named_children()]
        by_class.setdefault(type(next(module.children())), []).extend(names)
    units = max(by_class.values(), key=len, default=[])
    modules = [model.get_submodule(name) for name in units]
    widths = {tuple(params[-1].shape) for module in modules if (params := list(module.parameters()))}
    inner = [block_names(module) for module in modules]
    one_list = len({name.rpartition(".")[0] for name in units}) == 1
    if one_list and len(widths) > 1 and all(inner):
        return [f"{unit}.{name}" for unit, names in zip(units, inner, strict=True) for name in names]
    return units


def block_path(model: nn.Module, k: int) -> str:
    """Name of the cut after block `k` (from 1), as `SplitClient(at=...)` takes it; `k = 0` cuts before the first block.

    `block:0` is the embeddings with position embeddings (CLIP: after `pre_layrnorm`), what transformers calls
    `hidden_states[0]`; `block:k` is `hidden_states[k]` of a plain ViT.

    Raises:
        ValueError: no repeated blocks, or `k` beyond the last one.
    """
    names = block_names(model)
    owner = type(model).__name__
    if not names:
        raise ValueError(f"{owner} has no repeated blocks, so at='block:{k}' means nothing; name a module instead")
    if not 0 <= k <= len(names):
        raise ValueError(f"at is 'block:{k}', but {owner} has {len(names)} blocks: use block:0 to block:{len(names)}")
    return names[k - 1] if k else INPUT + names[0]


def resolve(model: nn.Module, at: str) -> str:
    """Turn what a user writes ("block:3", "encoder.layers.2", "input:encoder.layers.0") into a checked cut name.

    Raises:
        TypeError: not a string. ValueError: no such module; the message has the nearest names and the blocks.
    """
    if not isinstance(at, str):
        raise TypeError(f"at is a {type(at).__name__}; it must be a module name or 'block:k'")
    if at.startswith("block:"):
        number = at.removeprefix("block:")
        if not number.isdecimal():
            raise ValueError(
                f"at is {at!r}; after 'block:' comes a number: 0 for the embeddings, 1 for the first block"
            )
        return block_path(model, int(number))
    names = [name for name, _ in model.named_modules() if name]
    if at.removeprefix(INPUT) not in names:
        near = difflib.get_close_matches(at.removeprefix(INPUT), names, n=4, cutoff=0.4)
        blocks = block_names(model)
        hints = [f"near it: {', '.join(near)}"] if near else [f"it has {', '.join(names[:8])} ..."]
        if blocks:
            hints.append(f"blocks: block:0 to block:{len(blocks)} ({', '.join(blocks[:2])} ... {blocks[-1]})")
        raise ValueError(f"at is {at!r}, which is no module of {type(model).__name__}; {'; '.join(hints)}")
    return at


class Cut:
    """A model cut at one named module.

    The state of a running half lives in hooks on the model, so one model must not run in two threads at once.

    Args:
        model: any module that takes one batch of images; put in eval mode and frozen by the caller.
        at: a module name (cut after it) or `"input:NAME"` (cut before it), see `resolve`.
        example: a batch `(B, 3, H, W)`, B >= 2, as the model itself takes it (normalised). One forward is traced on it.

    Raises:
        ValueError: the module does not run exactly once, or the model fails on the example.
    """

    def __init__(self, model: nn.Module, at: str, example: Tensor):
        self.model, self.at = model, at
        self.before = at.startswith(INPUT)
        self.point = model.get_submodule(at.removeprefix(INPUT))
        self.client_only = False
        self._trace(example)

    def _trace(self, example: Tensor) -> None:
        """One forward that notes who finished before the cut (future stubs) and who had not started (the server's)."""
        events = self._record(example)
        kind = "enter" if self.before else "leave"
        hits = [i for i, event in enumerate(events) if event.module is self.point and event.kind == kind]
        if len(hits) != 1:
            raise ValueError(f"{self.at} runs {len(hits)} times in a forward; a cut must be at a module that runs once")
        cut = events[hits[0]]
        past = events[: hits[0]] if self.before else events[: hits[0] + 1]
        to_meta = lambda tensor: torch.empty_like(tensor, device="meta")  # noqa: E731 - shapes and dtypes are all we keep
        finished: list[tuple[nn.Module, Any]] = []
        open_at: list[int] = []
        for event in past:
            if event.kind == "enter":
                open_at.append(len(finished))
            else:  # a finished module swallows what finished inside it
                del finished[open_at.pop() :]
                finished.append((event.module, _map_tensors(event.value, to_meta)))
        self._finished: dict[nn.Module, list[Any]] = {}  # shared modules may run several times
        for module, output in finished:
            self._finished.setdefault(module, []).append(output)
        started = {event.module for event in past} | {self.model}
        self._server_modules = [module for module in self.model.modules() if module not in started]
        self._input_shape, self._dtype = example.shape, example.dtype
        self.h_shape = tuple(first_tensor(cut.value).shape[1:])

    @torch.no_grad()
    def _record(self, example: Tensor) -> list[_Event]:
        events: list[_Event] = []
        handles = []
        for module in self.model.modules():
            if module is self.model:
                continue
            enter = lambda m, args, kwargs: events.append(_Event("enter", m, (args, kwargs)))  # noqa: E731
            leave = lambda m, args, out: events.append(_Event("leave", m, out))  # noqa: E731
            handles += [module.register_forward_pre_hook(enter, with_kwargs=True), module.register_forward_hook(leave)]
        try:
            output = first_tensor(self.model(example))
        except Exception as error:
            owner, shape = type(self.model).__name__, tuple(example.shape)
            raise ValueError(f"{owner} fails on images {shape}; is image_size right? {error}") from error
        finally:
            for handle in handles:
                handle.remove()
        if not output.isfinite().all():
            raise ValueError(f"{type(self.model).__name__} returns NaN or Inf on noise images; its weights are broken")
        return events

    def _hook(self) -> Any:
        def stop_before(module: nn.Module, args: Any, kwargs: Any) -> None:
            raise _Stop((args, kwargs))

        def stop_after(module: nn.Module, args: Any, output: Any) -> None:
            raise _Stop(output)

        if self.before:
            return self.point.register_forward_pre_hook(stop_before, with_kwargs=True)
        return self.point.register_forward_hook(stop_after)

    def run_client(self, x: Tensor) -> Tensor:
        """`x` `(B, 3, H, W)` -> IR `h` `(B, *h_shape)`, differentiable; no module after the cut runs."""
        handle = None if self.client_only else self._hook()
        try:
            self.model(x)
        except _Stop as stop:
            return first_tensor(stop.value)
        finally:
            if handle is not None:
                handle.remove()
        raise RuntimeError(f"{self.at} was not reached")

    def run_server(self, h: Tensor) -> Tensor:
        """IR `h` `(B, *h_shape)` -> the first tensor of the model's output, differentiable.

        Raises:
            RuntimeError: after `free_server`.
        """
        if self.client_only:
            raise RuntimeError("the server half was freed by free_server(); build the client again to run it")
        with self._stubs(h):
            blank = torch.zeros((len(h), *self._input_shape[1:]), device=h.device, dtype=h.dtype)
            return first_tensor(self.model(blank))

    @contextmanager
    def _stubs(self, h: Tensor) -> Iterator[None]:
        """Replace everything that ran before the cut by zeros of the same shape, and the cut value by `h`."""

        def zeros(tensor: Tensor) -> Tensor:
            rest = tensor.shape[1:]
            shape = (len(h), *rest) if tensor.ndim and tensor.shape[0] == self._input_shape[0] else tensor.shape
            return torch.zeros(shape, device=h.device, dtype=h.dtype if tensor.dtype == self._dtype else tensor.dtype)

        def replay(module: nn.Module, outputs: list[Any]) -> Callable[..., Any]:
            real, queue = module.forward, list(outputs)

            def forward(*args: Any, **kwargs: Any) -> Any:
                if not queue:  # a shared module that is used again after the cut
                    return real(*args, **kwargs)
                output = queue.pop(0)
                if module is self.point and not self.before:
                    return _replace_first(output, h, zeros)
                return _map_tensors(output, zeros)

            return forward

        def feed(module: nn.Module) -> Callable[..., Any]:
            real = module.forward

            def forward(*args: Any, **kwargs: Any) -> Any:
                args, kwargs = _replace_first((args, kwargs), h, lambda tensor: tensor)
                return real(*args, **kwargs)

            return forward

        stubs = {module: replay(module, outputs) for module, outputs in self._finished.items()}
        if self.before:
            stubs[self.point] = feed(self.point)
        patched_by_others = {module: module.__dict__["forward"] for module in stubs if "forward" in module.__dict__}
        try:
            for module, forward in stubs.items():
                module.__dict__["forward"] = forward
            yield
        finally:
            for module in stubs:
                del module.__dict__["forward"]
                if module in patched_by_others:
                    module.__dict__["forward"] = patched_by_others[module]

    @torch.no_grad()
    def check(self, x: Tensor) -> None:
        """Prove on the batch `x` that `h` is all the server needs: `server(client(x)) == model(x)`.

        Raises:
            ValueError: something bypasses the cut, or the output does not depend on the cut (nothing can be proved).
        """
        h, want = self.run_client(x), first_tensor(self.model(x))
        scale = want.abs().max().item()
        error = (self.run_server(h) - want).abs().max().item()
        # Both run the same operations on the same numbers, so they agree up to the choice of kernel.
        if error > scale * 64 * torch.finfo(want.dtype).eps:
            raise ValueError(
                f"something bypasses {self.at}: the server half differs from the model by {error:.3g} (the output is up to "
                f"{scale:.3g}). Cut after a whole block, not inside one"
            )
        if torch.equal(self.run_server(torch.zeros_like(h)), want):
            raise ValueError(
                f"the output does not depend on {self.at}, so the cut cannot be checked; give the model its trained head "
                "(some libraries start it at zero), or pass check=False"
            )

    def parameter_counts(self) -> tuple[int, int]:
        """Number of parameters of the client half and of the server half."""
        server = self._server_parameters()
        freed = sum(p.numel() for p in server)
        return sum(p.numel() for p in self.model.parameters()) - freed, freed

    def _server_parameters(self) -> list[nn.Parameter]:
        """Parameters that only modules after the cut own (tied weights stay with the client)."""
        server = set(self._server_modules)
        own = lambda module: module.parameters(recurse=False)  # noqa: E731
        client = {p for module in self.model.modules() if module not in server for p in own(module)}
        return list({p: None for module in self._server_modules for p in own(module) if p not in client})

    def free_server(self) -> int:
        """Drop the server's weights and keep the hook in place for good (which lets `torch.compile` see one graph).

        Returns:
            Number of parameters freed; 0 the second time.
        """
        if self.client_only:
            return 0
        self._hook()
        self.client_only = True
        freed = 0
        for parameter in self._server_parameters():
            freed += parameter.numel()
            parameter.data = parameter.data.new_empty(0)
        return freed
