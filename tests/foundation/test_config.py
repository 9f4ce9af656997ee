"""Recipes are checked whole: every problem at once, with its place, what was met and what is allowed."""

import contextlib
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from chatwright.foundation import config
from chatwright.foundation.config import Config, Habit, path_of, read_toml
from chatwright.foundation.errors import ConfigError, ExitCode, UsageError


class Files(Config):
    kind: Literal["files"] = "files"
    path: str


class Web(Config):
    kind: Literal["web"] = "web"
    address: str
    patience_s: Habit[float] = 1.0
    pages: int = Field(default=10, ge=1)


class Inner(Config):
    rank: int = Field(default=4, ge=1)
    alpha: float = Field(default=1.0, gt=0)
    targets: tuple[str, ...] = ("a", "b")

    def problems(self) -> Iterator[str]:
        if self.alpha > self.rank:
            yield f"`alpha` must not exceed `rank`: {self.alpha} and {self.rank}"


class Outer(Config):
    name: str
    steps: int = 5
    method: Literal["lora", "all"] = "lora"
    inner: Inner = Inner()
    maybe: Inner | None = None
    log_every: Habit[int] = Field(default=3, ge=1)
    sources: tuple[Annotated[Files | Web, Field(discriminator="kind")], ...] = ()


def check(data: dict[str, Any]) -> Outer:
    return config.validate(Outer, data, where="recipe `x.toml`")


def problems(data: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check(data)
    return caught.value.problems


def test_defaults_fill_what_is_absent():
    assert check({"name": "demo", "inner": {"rank": 8}}) == Outer(name="demo", inner=Inner(rank=8))


def test_all_problems_are_reported_at_once():
    found = problems({"steps": "5", "metod": "all", "inner": {"rank": 0}, "maybe": {"alpha": -1.0}})
    assert len(found) == 5
    assert any(text == "`name` is required" for text in found)
    assert any("`steps` should be a valid integer" in text and '"5"' in text for text in found)
    assert any("`metod`" in text and "did you mean `method`?" in text for text in found)
    assert any("`inner.rank`" in text and "greater than or equal to 1" in text and "not 0" in text for text in found)
    assert any("`maybe.alpha`" in text for text in found)


def test_the_error_counts_its_problems_names_the_file_and_the_next_step():
    with pytest.raises(ConfigError) as caught:
        check({})
    text = str(caught.value)
    assert text.startswith("recipe `x.toml` has 1 problem:\n  - `name` is required")
    assert "--set" in text
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize("value", [True, False, 1.0, "1", None, [1]])
def test_only_an_integer_is_an_integer(value):
    assert len(problems({"name": "x", "steps": value})) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e999, True, "1.0"])
def test_a_number_is_finite_and_no_boolean(value):
    assert len(problems({"name": "x", "inner": {"rank": 9, "alpha": value}})) == 1


def test_an_integer_is_a_sound_float_and_a_list_a_sound_tuple():
    assert check({"name": "x", "inner": {"alpha": 2, "targets": ["q"]}}).inner == Inner(alpha=2.0, targets=("q",))


def test_a_wrong_choice_is_told_the_choices():
    (found,) = problems({"name": "x", "method": "qlora"})
    assert "'lora' or 'all'" in found
    assert "qlora" in found


def test_rules_between_fields_are_reported_with_their_place():
    (found,) = problems({"name": "x", "maybe": {"rank": 1, "alpha": 2.0}})
    assert found.startswith("`maybe`: `alpha` must not exceed")


def test_an_unknown_key_without_a_neighbour_is_told_the_known_ones():
    (found,) = problems({"name": "x", "inner": {"zzz": 1}})
    assert found == "`inner.zzz` is not a known key; known: alpha, rank, targets"


def test_keys_in_a_list_of_kinds_are_named_as_the_command_line_takes_them():
    found = problems({"name": "x", "sources": [{"kind": "files", "pathh": "a"}, {"kind": "wep"}, {"path": "b"}]})
    assert "`sources.0.path` is required" in found
    assert "`sources.0.pathh` is not a known key; did you mean `path`?" in found
    assert "`sources.1.kind` is not a known kind: wep; did you mean `web`?" in found
    assert any(text.startswith("`sources.2.kind` is required") for text in found)


def test_a_habit_is_checked_like_any_field():
    assert problems({"name": "x", "log_every": 0}) == ["`log_every` should be greater than or equal to 1, not 0"]


def test_what_a_result_depends_on_is_everything_but_the_habits_at_any_depth():
    data = {"name": "x", "log_every": 7, "sources": [{"kind": "web", "address": "a", "patience_s": 2.0}]}
    left = config.without_habits(check(data))
    assert left["sources"] == [{"kind": "web", "address": "a", "pages": 10}]
    assert left["inner"] == {"rank": 4, "alpha": 1.0, "targets": ["a", "b"]}
    assert "log_every" not in left
    assert left == config.without_habits(check(data | {"log_every": 1}))


def test_a_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        check({"name": "x"}).name = "y"  # type: ignore[misc]


def test_class_paths_and_templates_are_plain_strings():
    for text in ("os.system", "!!python/object:os.system", "${HOME}", "{{ 7 * 7 }}", "__import__('os')"):
        assert check({"name": text}).name == text


values = st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), st.lists, max_leaves=4)


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(["name", "steps", "inner", "sources", "x"]), values, max_size=4))
def test_any_table_is_either_sound_or_refused_with_its_problems(data):
    with contextlib.suppress(ConfigError):
        check(data)


def test_overrides_set_keys_of_tables_and_lists():
    data = {"name": "x", "sources": [{"kind": "files", "path": "a"}, {"kind": "files", "path": "b"}]}
    changed = config.apply_overrides(
        data, ["steps=7", "inner.alpha=0.5", "sources.1.path=c d", 'inner.targets=["q", "k"]', "maybe.rank=2"]
    )
    outer = check(changed)
    assert (outer.steps, outer.inner.alpha, outer.inner.targets) == (7, 0.5, ("q", "k"))
    assert [source.path for source in outer.sources if isinstance(source, Files)] == ["a", "c d"]
    assert outer.maybe == Inner(rank=2)
    assert data["sources"][1] == {"kind": "files", "path": "b"}


def test_the_last_override_of_a_key_counts():
    assert config.apply_overrides({}, ["a=1", "a=2"]) == {"a": 2}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ('"5"', "5"),
        ("5", 5),
        ("1e3", 1000.0),
        ("a=b", "a=b"),
        ("", ""),
        ("[1", "[1"),
        ("1\nb = 2", "1\nb = 2"),
    ],
)
def test_the_value_of_an_override_is_toml_or_else_a_plain_string(text, value):
    assert config.apply_overrides({}, [f"key={text}"]) == {"key": value}


@pytest.mark.parametrize(
    "override",
    [
        "steps",
        "=5",
        "name.a=1",
        "name.a.b=1",
        "sources.5.path=x",
        "sources.one.path=x",
        "sources.²=x",
        "a." * 40 + "b=1",
    ],
)
def test_an_override_that_leads_nowhere_is_refused(override):
    with pytest.raises(UsageError, match="override|list|table"):
        config.apply_overrides({"name": "x", "sources": [{}]}, [override])


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_byte_order_marks_and_line_ends_change_nothing(tmp_path, newline, mark):
    path = tmp_path / "with space ü.toml"
    path.write_bytes(mark + newline.join(['name = "x"', "[inner]", "rank = 8", ""]).encode())
    assert config.read_toml(path) == {"name": "x", "inner": {"rank": 8}}


@pytest.mark.parametrize(
    "text",
    [
        b"a = 1\na = 2",
        b"[t]\nx = 1\n[t]\ny = 2",
        b"a = ",
        b"\xff\xfe",
        b"a = " + b"9" * 5000,
        b"a = " + b"[" * 100_000,
        b"a." * 5000 + b"b = 1",
        b"a = " + b"[" * 40 + b"]" * 40,
    ],
    ids=["duplicate key", "duplicate table", "no value", "not UTF-8", "digits", "unclosed", "dotted", "deep"],
)
def test_what_is_not_sound_toml_is_refused_with_the_files_name(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_bytes(text)
    with pytest.raises(UsageError, match=r"recipe\.toml"):
        config.read_toml(path)


def test_a_missing_recipe_is_told_where_recipes_come_from(tmp_path):
    with pytest.raises(UsageError, match="there is no recipe") as caught:
        config.read_toml(tmp_path / "none.toml")
    assert "chatwright new" in (caught.value.hint or "")


def test_a_directory_a_huge_file_and_an_impossible_name_are_refused(tmp_path):
    with pytest.raises(UsageError, match="is a folder") as caught:
        config.read_toml(tmp_path)
    assert "chatwright new" in caught.value.hint
    huge = tmp_path / "huge.toml"
    huge.write_bytes(b"# " + b"x" * config.MAX_RECIPE_BYTES)
    with pytest.raises(UsageError, match="too large"):
        config.read_toml(huge)
    with pytest.raises(UsageError, match="cannot be read"):
        config.read_toml(tmp_path / ("x" * 4096))
    with pytest.raises(UsageError, match="cannot be read"):
        config.read_toml(huge / "below-a-file.toml")


@pytest.mark.parametrize("key", ["a.", '"a" . ', "'a'\t."])
@pytest.mark.parametrize("line", ["{key}a = 1\n", "x = 1\n[{key}a]\n", "[[ {key}a ]]\n"])
def test_a_key_of_many_parts_is_refused_before_it_is_read(tmp_path, key, line):
    """Reading one of a megabyte would take gigabytes, by the square of its parts."""
    path = tmp_path / "recipe.toml"
    path.write_text(line.format(key=key * (1_000_000 // len(key))))
    tracemalloc.start()
    with pytest.raises(UsageError, match="deeper than a recipe may: 32"):
        read_toml(path)
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()


def test_a_key_of_as_many_parts_as_tables_may_lie_in_each_other_is_read(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(f'{".".join("a" * 32)} = "x.{".".join("y" * 99)}"\n')
    data = read_toml(path)
    for _ in range(32):
        data = data["a"]
    assert data.startswith("x.y.y")


@pytest.mark.parametrize(
    ("text", "told"),
    [("~nobody-of-this-name/books", "no home directory for `~nobody-of-this-name`"), ("a\0b", "no zero byte")],
)
def test_what_can_be_no_path_is_told(text, told):
    with pytest.raises(UsageError, match=told):
        path_of(text)


def test_a_path_of_one_s_own_home_is_whole():
    assert path_of("~/books") == Path.home() / "books"
