"""`docs/data.md` names every kind of source, and every reason under which collecting drops something."""

import ast
import re
from pathlib import Path

import pytest

from chatwright.data import collect, engine, formats, sandbox, sources

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTED = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
FILES = [
    *sorted(Path(formats.__file__).parent.glob("*.py")),
    *sorted(Path(sources.__file__).parent.glob("*.py")),
    *(Path(module.__file__) for module in (collect, engine, sandbox)),
]


def constants(tree):
    """What a module gives a name: of its own, or within a function."""
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, value
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                yield from (
                    (target.id, value)
                    for target, value in zip(targets, values, strict=False)
                    if isinstance(target, ast.Name)
                )


def spelled(node, named):
    """The reasons that an expression may be; `x` stands for what is known at run time alone."""
    if isinstance(node, ast.Constant):
        return {node.value}
    if isinstance(node, ast.JoinedStr):
        return {"".join(part.value if isinstance(part, ast.Constant) else "x" for part in node.values)}
    if isinstance(node, ast.IfExp):
        return spelled(node.body, named) | spelled(node.orelse, named)
    if isinstance(node, ast.BoolOp):
        return set().union(*(spelled(value, named) for value in node.values))
    if isinstance(node, ast.Name):
        return set().union(*(spelled(value, {}) for value in named.get(node.id, [])))
    return set()


def reasons_in_code():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in FILES]
    exported = {}
    for tree in trees:
        for name, value in constants(tree):
            exported.setdefault(name, []).append(value)
    found = set()
    for tree in trees:
        own = {}
        for name, value in constants(tree):
            own.setdefault(name, []).append(value)
        for node in ast.walk(tree):
            called = getattr(node.func, "id", getattr(node.func, "attr", "")) if isinstance(node, ast.Call) else ""
            if called in ("Unreadable", "drop") and node.args:
                found |= spelled(node.args[0], {**exported, **own})
    return sorted(reason for reason in found if reason)


def documented_reasons():
    """The first column of the table, `…` as what stands for any word."""
    table = DOCUMENTED.split("\n## Reasons\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def test_the_reasons_in_the_code_are_found():
    found = reasons_in_code()
    assert {"damaged_epub", "damaged_x", "x_timeout", "over_cap", "taken_down", "not_a_file", "noindex"} <= set(found)
    assert len(found) > 40


def test_every_reason_for_a_drop_stands_in_the_documents():
    patterns = [re.escape(name).replace("…", r"\w+") for name in documented_reasons()]
    found = reasons_in_code()
    assert [reason for reason in found if not any(re.fullmatch(pattern, reason) for pattern in patterns)] == []


def test_no_reason_stands_in_the_documents_that_the_code_does_not_have():
    code = "".join(path.read_text(encoding="utf-8") for path in FILES)
    words = [word for name in documented_reasons() for word in name.split("…") if word]
    assert [word for word in words if not re.search(rf'["}}]{word}["{{]', code)] == []


@pytest.mark.parametrize("kind", sources._MODULES)
def test_every_kind_of_source_stands_in_the_documents(kind):
    assert f'kind = "{kind}"' in DOCUMENTED
