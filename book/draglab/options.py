"""A Python function as a command: its parameters become options, those of its settings (dataclasses) one option per field."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

PLAIN = (bool, int, float, str, Path)

REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        path: where its value goes: the parameter and, inside settings, the field: `("recipe", "mask", "ratio")`.
        kind: type of the value: a plain one, a `Literal` or a `tuple`. default: in Python; `REQUIRED` where there is none.
        help: what the docstring says of it.
    """

    path: tuple[str, ...]
    kind: Any
    default: Any
    help: str

    @property
    def name(self) -> str:
        """As Python spells it, which is also how errors name it."""
        return "out" if self.path == ("folder",) else self.path[-1]

    def parameter(self) -> inspect.Parameter:
        """The option as typer takes it."""
        kind: Any = self.kind
        default = self.default
        if get_origin(kind) is tuple:
            kind, default = str, default if default in (REQUIRED, None) else ",".join(map(str, default))
        elif get_origin(kind) is Literal:
            kind = _choice(get_args(kind))
            default = default if default in (REQUIRED, None) else kind(default)
        flag = "--" + self.name.replace("_", "-")
        shown = typer.Option(f"{flag}/--no-{flag[2:]}" if kind is bool else flag, help=self.help or None)
        accepted = kind | None if default is None else kind
        return inspect.Parameter(
            self.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[accepted, shown]
        )

    def read(self, value: Any) -> Any:
        """The value in Python of what was given on the command line.

        Raises:
            ValueError: text that is not what the option takes; the message names it.
        """
        if isinstance(value, StrEnum):
            return value.value
        return (
            _several(self.name, value, self.kind)
            if isinstance(value, str) and get_origin(self.kind) is tuple
            else value
        )


def _choice(values: tuple[str, ...]) -> Any:
    return StrEnum("Choice", [(value, value) for value in values])  # type: ignore[misc]


def command(function: Callable[..., Any], finish: Callable[..., None]) -> Callable[[Sequence[str], str], Any]:
    """`function` as a command, to be called with its arguments and the name that its help shows.

    Parameters that cannot be said on a command line are left at their defaults; `folder` becomes `--out`. `finish` gets what the
    function returns, and its further parameters are options too.

    Raises:
        TypeError: two options of one name.
    """
    result_of = next(iter(inspect.signature(finish).parameters))
    own, more = options(function), [option for option in options(finish) if option.path != (result_of,)]
    by_name = {option.name: option for option in own + more}
    if len(by_name) < len(own) + len(more):
        raise TypeError(f"{function.__name__} has two options of one name: {', '.join(o.name for o in own + more)}")

    def run(**given: Any) -> None:
        values = {name: by_name[name].read(value) for name, value in given.items()}
        result = function(**_arguments(function, own, values))
        finish(result, **_arguments(finish, more, values))

    parameters = [option.parameter() for option in by_name.values()]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=_first_paragraphs(function))(run)
    parsed = typer.main.get_command(app)
    return lambda arguments, name: parsed(list(arguments), prog_name=name)


def options(function: Callable[..., Any]) -> list[Option]:
    """Every option of a function, in the order of its parameters."""
    hints, about = get_type_hints(function), inspect.getdoc(function) or ""
    parameters = inspect.signature(function).parameters
    described = _described(about, list(parameters))
    return [
        option
        for name, parameter in parameters.items()
        for option in _options((name,), hints.get(name, str), parameter.default, described.get(name, ""))
    ]


def _options(path: tuple[str, ...], hint: Any, default: Any, about: str) -> Iterator[Option]:
    if is_dataclass(default) and not isinstance(default, type):
        kind = type(default)
        hints, described = (
            get_type_hints(kind),
            _described(inspect.getdoc(kind) or "", [f.name for f in fields(default)]),
        )
        for field in fields(default):
            inner = (*path, field.name)
            yield from _options(inner, hints[field.name], getattr(default, field.name), described.get(field.name, ""))
    elif (said := _sayable(hint)) is not None:
        yield Option(path, said, default, about)


def _sayable(hint: Any) -> Any:
    """The type of an option for this annotation, None where a command line has no words for it."""
    if get_origin(hint) in (Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        return _sayable(kinds[0]) if len(kinds) == 1 else None
    if get_origin(hint) is tuple:
        return hint if all(kind in (int, float, str, ...) for kind in get_args(hint)) else None
    return hint if hint in PLAIN or get_origin(hint) is Literal else None


def _several(name: str, text: str, kind: Any) -> tuple[Any, ...]:
    """Text such as "16,32" as a tuple of the numbers or words that `kind` says."""
    each = get_args(kind)[0]
    try:
        return tuple(each(part.strip()) for part in text.split(",") if part.strip() or each is not str)
    except ValueError:
        example = "16,32,64,128" if each is int else "0.5,1.0"
        raise ValueError(f"{name} is {text!r}; it must be numbers with commas between, such as {example}") from None


def _arguments(function: Callable[..., Any], chosen: list[Option], values: dict[str, Any]) -> dict[str, Any]:
    """The values as arguments of the function, fields of settings put into a copy of the default settings."""
    nested: dict[str, Any] = {}
    for option in chosen:
        inside = nested
        for part in option.path[:-1]:
            inside = inside.setdefault(part, {})
        inside[option.path[-1]] = values[option.name]
    defaults = {name: p.default for name, p in inspect.signature(function).parameters.items()}
    return {name: _filled(defaults[name], value) for name, value in nested.items()}


def _filled(default: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return replace(default, **{name: _filled(getattr(default, name), inner) for name, inner in value.items()})


def _described(about: str, names: list[str]) -> dict[str, str]:
    """What a docstring says of these names under `Args:` or `Attributes:`; one description may be for several."""
    _, _, listed = re.sub(r"\s+", " ", about).partition("Args: " if "Args:" in about else "Attributes: ")
    listed = re.split(r" (?:Returns|Raises): ", listed)[0]
    name = "|".join(map(re.escape, names))
    parts = re.split(rf"(?:^|(?<=[.)\]] ))((?:{name})(?:, (?:{name}))*): ", listed)
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return {one: text.strip().rstrip(".").replace("`", "") for group, text in pairs for one in group.split(", ")}


def _first_paragraphs(function: Callable[..., Any]) -> str:
    """The docstring up to its first section."""
    return re.split(r"\n+(?:Args|Returns|Raises):", inspect.getdoc(function) or "")[0].replace("`", "")
