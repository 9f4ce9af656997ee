"""Configuration: frozen, typed, with every problem of a file reported at once.

A config class stands beside its owner and derives from `Config`. Files are TOML and name kinds, never code.
"""

import difflib
import json
import tomllib
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import pydantic

from chatwright.foundation.errors import ConfigError, UsageError

MAX_RECIPE_BYTES = 1 << 20


class Config(pydantic.BaseModel):
    """Base of every section: unknown keys refused, no silent conversion, no NaN, frozen after reading."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    def problems(self) -> Iterator[str]:
        """Rules between fields that no single field can check; each yields one sentence."""
        return iter(())


ConfigT = TypeVar("ConfigT", bound=Config)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file, refusing what is missing, over a megabyte or not TOML, with the line."""
    try:
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise UsageError(f"`{path}` is too large for a recipe: {path.stat().st_size} bytes")
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UsageError(
            f"there is no recipe `{path}`", hint="`chatwright new DIR` writes one; ready ones are in `recipes/`"
        ) from None
    except IsADirectoryError:
        raise UsageError(f"`{path}` is a directory, a recipe is a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"`{path}` is not sound TOML: {error}") from error


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply `a.b=c` settings; `a.0.b` reaches into a list. A value is TOML, or else a plain string.

    Raises:
        UsageError: a setting without `=`, or a path through something that is not a table.
    """
    result: dict[str, Any] = json.loads(json.dumps(data, default=str))
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            raise UsageError(f"an override must read KEY=VALUE: `{override}`")
        *parents, last = path.strip().split(".")
        place: Any = result
        for step in parents:
            place = _descend(place, step, override)
        if isinstance(place, list):
            place[_index(place, last, override)] = _value(text)
        elif isinstance(place, dict):
            place[last] = _value(text)
        else:
            raise UsageError(f"`{path}` does not lead to a table: `{override}`")
    return result


def _descend(place: Any, step: str, override: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, step, override)]
    if isinstance(place, dict):
        return place.setdefault(step, {})
    raise UsageError(f"`{step}` does not lead to a table: `{override}`")


def _index(place: list[Any], step: str, override: str) -> int:
    if not step.isdigit() or int(step) >= len(place):
        raise UsageError(f"`{step}` is no entry of a list of {len(place)}: `{override}`")
    return int(step)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def validate(kind: type[ConfigT], data: dict[str, Any], *, where: str) -> ConfigT:
    """Check `data` against a config class.

    Raises:
        ConfigError: every problem, each with its path, the value met and what is allowed.
    """
    try:
        # JSON's rules, not Python's: a list may fill a tuple, a string a path, but True is never the number 1.
        config = kind.model_validate_json(json.dumps(data, default=str))
    except pydantic.ValidationError as error:
        raise ConfigError(where, [_sentence(kind, detail) for detail in error.errors()]) from None
    problems = list(_nested_problems(config, ""))
    if problems:
        raise ConfigError(where, problems)
    return config


def _nested_problems(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, Config):
        for problem in value.problems():
            yield f"`{path}`: {problem}" if path else problem
        for name in type(value).model_fields:
            yield from _nested_problems(getattr(value, name), f"{path}.{name}" if path else name)
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            yield from _nested_problems(item, f"{path}.{position}")


def _sentence(kind: type[Config], detail: Any) -> str:
    path = ".".join(str(step) for step in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = _known_keys(kind, detail["loc"][:-1])
        near = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        return f"`{path}` is not a known key" + (f"; did you mean `{near[0]}`?" if near else f"; known: {', '.join(known)}")
    if detail["type"] == "missing":
        return f"`{path}` is required"
    met = detail.get("input")
    shown = f", not {json.dumps(met, ensure_ascii=False, default=str)[:80]}" if not isinstance(met, dict) else ""
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("should ")
    return f"`{path}` should {message}{shown}" if detail["msg"].startswith("Input should") else f"`{path}`: {message}{shown}"


def _known_keys(kind: Any, loc: tuple[Any, ...]) -> list[str]:
    """Keys of the config class to which `loc` leads, through lists, options and tagged unions."""
    for step in loc:
        if isinstance(kind, type) and issubclass(kind, Config) and step in kind.model_fields:
            kind = kind.model_fields[step].annotation
        kind = _inner(kind, step)
    return sorted(kind.model_fields) if isinstance(kind, type) and issubclass(kind, Config) else []


def _inner(kind: Any, step: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        members = [member for member in get_args(kind) if member is not type(None)]
        tagged = [m for m in members if getattr(m, "model_fields", {}).get("kind") and step in get_args(m.model_fields["kind"].annotation)]
        return tagged[0] if tagged else (_inner(members[0], step) if len(members) == 1 else kind)
    if get_origin(kind) in (list, tuple):
        return get_args(kind)[0]
    return kind
