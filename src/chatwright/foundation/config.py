"""Configuration: frozen, typed, with every problem of a file reported at once.

A config class stands beside its owner and derives from `Config`. Files are TOML and name kinds, never code.
"""

import difflib
import json
import re
import tomllib
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin

import pydantic

from chatwright.foundation.errors import ConfigError, UsageError

MAX_RECIPE_BYTES = 1 << 20
MAX_DEPTH = 32  # tables and lists within each other
# A line with more parts to its key than tables may lie within each other: reading it would take memory by the square of
# their number. Nothing in the pattern goes back, so it takes linear time.
_PART = r"""(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"^[ \t]*+\[?+\[?+[ \t]*+{_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{MAX_DEPTH}}}", re.MULTILINE)
_MOST_PLACES = 2  # a key that more sections have says little about which one was meant


class Config(pydantic.BaseModel):
    """Base of every section: unknown keys refused, no silent conversion, no NaN, frozen after reading."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    def problems(self) -> Iterator[str]:
        """Rules between fields that no single field can check; each yields one sentence."""
        return iter(())


ConfigT = TypeVar("ConfigT", bound=Config)
AnyT = TypeVar("AnyT")


class _HabitMark:
    """Marks a field that says how a result is worked towards, and changes nothing in it."""


# `checkpoint_every: Habit[int]`: the type with the mark. What is done is not done again for its sake.
Habit = Annotated[AnyT, _HabitMark()]


def without_habits(config: Config) -> dict[str, Any]:
    """What a result depends on, as JSON has it: the sections without their habits."""
    kept: dict[str, Any] = _stripped(config, config.model_dump(mode="json"))
    return kept


def _stripped(value: Any, dumped: Any) -> Any:
    if isinstance(value, Config):
        fields = type(value).model_fields
        marks = {name: any(isinstance(mark, _HabitMark) for mark in field.metadata) for name, field in fields.items()}
        return {name: _stripped(getattr(value, name), part) for name, part in dumped.items() if not marks[name]}
    if isinstance(value, list | tuple):
        return [_stripped(item, part) for item, part in zip(value, dumped, strict=True)]
    return dumped


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file, refusing what is missing, too large, nested too deeply or not TOML, with the line.

    A byte order mark and Windows line ends are read like none.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise _no_file(path)
        if size > MAX_RECIPE_BYTES:
            raise UsageError(f"`{path}` is too large for a recipe: {size} bytes, at most {MAX_RECIPE_BYTES}")
        text = path.read_text(encoding="utf-8-sig")
        if _LONG_KEY.search(text):
            raise _too_deep(path)
        data = tomllib.loads(text)
    except FileNotFoundError:
        raise UsageError(
            f"there is no recipe `{path}`", hint="`chatwright new DIR` writes one; ready ones are in `recipes/`"
        ) from None
    except OSError as error:
        raise UsageError(f"the recipe `{path}` cannot be read: {error.strerror}") from error
    except RecursionError:
        raise _too_deep(path) from None
    except ValueError as error:  # not TOML, not UTF-8, or a number of thousands of digits
        raise UsageError(
            f"`{path}` is not sound TOML: {error}", hint='a key reads `name = "text"`, `steps = 500` or `is_on = true`'
        ) from error
    if _is_deeper(data, MAX_DEPTH):
        raise _too_deep(path)
    return data


def path_of(text: str) -> Path:
    """A path as a person writes it, with `~` for the home directory.

    Raises:
        UsageError: it can be no path.
    """
    if "\0" in text:
        raise UsageError(f"a path holds no zero byte: {text!r}", hint="write it without")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UsageError(
            f"there is no home directory for `{Path(text).parts[0]}`: `{text}`",
            hint="`~/` is your own; a folder whose name begins with `~` is named by its whole path",
        ) from None


def _no_file(path: Path) -> UsageError:
    """Where a folder was named, the recipes in it are what was meant."""
    if not path.is_dir():
        return UsageError(f"`{path}` is not a file, a recipe is a TOML file")
    found = sorted(path.glob("*.toml"))[:3]
    hint = f"name {' or '.join(f'`{one}`' for one in found)}" if found else "`chatwright new DIR` writes a recipe"
    return UsageError(f"`{path}` is a folder, a recipe is a TOML file", hint=hint)


def _too_deep(path: Path) -> UsageError:
    return UsageError(f"`{path}` nests tables or lists deeper than a recipe may: {MAX_DEPTH}")


def _is_deeper(value: Any, limit: int) -> bool:
    if limit < 0:
        return True
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_is_deeper(child, limit - 1) for child in children)


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
        if len(parents) > MAX_DEPTH:
            raise UsageError(f"an override reaches at most {MAX_DEPTH} tables deep: `{override[:80]}`")
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
    if not step.isdecimal() or int(step) >= len(place):
        raise UsageError(f"`{step}` is no entry of a list of {len(place)}: `{override}`")
    return int(step)


def _value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if len(parsed) == 1 else text  # further lines of `text` must not be lost


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


class _Place(NamedTuple):
    path: str  # as a person writes it after `--set`, without the tags that pydantic adds for unions
    kind: Any  # the type that stands there; None where nothing is known


def _sentence(kind: type[Config], detail: Any) -> str:
    path = _place(kind, detail["loc"]).path
    if detail["type"] == "extra_forbidden":
        key = str(detail["loc"][-1])
        return f"`{path}` is not a known key" + (
            _elsewhere(kind, key) or _near(key, _known_keys(kind, detail["loc"][:-1]))
        )
    if detail["type"] == "missing":
        return f"`{path}` is required"
    if detail["type"] == "union_tag_not_found":
        return f"`{path}.kind` is required; known: {detail['ctx'].get('expected_tags', '')}"
    if detail["type"] == "union_tag_invalid":
        known = [tag.strip("' ") for tag in detail["ctx"]["expected_tags"].split(",")]
        return f"`{path}.kind` is not a known kind: {detail['ctx']['tag']}" + _near(detail["ctx"]["tag"], known)
    met = detail.get("input")
    shown = f", not {json.dumps(met, ensure_ascii=False, default=str)[:80]}" if not isinstance(met, dict) else ""
    message = detail["msg"].removeprefix("Value error, ")
    if message.startswith("Input should "):
        return f"`{path}` should {message.removeprefix('Input should ')}{shown}"
    return f"`{path}`: {message}{shown}"


def _elsewhere(kind: type[Config], key: str) -> str:
    """The sections that have this very key, where it was written into another one."""
    sections = {name: _bare(field.annotation) for name, field in kind.model_fields.items()}
    found = [
        f"`{name}.{key}`"
        for name, section in sections.items()
        if isinstance(section, type) and issubclass(section, Config) and key in section.model_fields
    ]
    return f"; there is {' and '.join(found)}" if 0 < len(found) <= _MOST_PLACES else ""


def _near(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean `{near[0]}`?" if near else f"; known: {', '.join(known)}"


def _known_keys(kind: type[Config], loc: tuple[Any, ...]) -> list[str]:
    place = _place(kind, loc).kind
    return sorted(place.model_fields) if isinstance(place, type) and issubclass(place, Config) else []


def _place(kind: Any, loc: tuple[Any, ...]) -> _Place:
    """Where `loc` leads from a config class, through lists, options and tagged unions."""
    steps = []
    for step in loc:
        tagged = _tagged(kind, step)
        if tagged is not None:
            kind = tagged
            continue
        steps.append(str(step))
        if isinstance(kind, type) and issubclass(kind, Config) and step in kind.model_fields:
            kind = _bare(kind.model_fields[step].annotation)
        elif get_origin(kind) in (list, tuple):
            kind = _bare(get_args(kind)[0])
        else:
            kind = None
    return _Place(".".join(steps), kind)


def _bare(kind: Any) -> Any:
    """A type without what `Annotated` adds, and without None where that leaves one type."""
    if get_origin(kind) is Annotated:
        return _bare(get_args(kind)[0])
    members = [member for member in _members(kind) if member is not type(None)]
    return _bare(members[0]) if len(members) == 1 else kind


def _tagged(kind: Any, tag: Any) -> Any:
    """The member of a union of configs whose `kind` is `tag`."""
    for member in _members(kind):
        field = getattr(member, "model_fields", {}).get("kind")
        if field is not None and tag in get_args(field.annotation):
            return member
    return None


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else ()
