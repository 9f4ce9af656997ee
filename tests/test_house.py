"""The rules of the house that no linter holds: forbidden calls, sizes, docstrings, pins, what the documents promise.

The direction of imports is import-linter's, types and style are mypy's and ruff's; `make lint` runs them.
"""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "chatwright"
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

# Modules that run code from data, or that nothing here should need.
FORBIDDEN_MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
FORBIDDEN_BUILTINS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_CALLS = {
    "os.system",
    "os.popen",
    "torch.load",
    "torch.save",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "yaml.full_load",
    "yaml.load",
    "yaml.unsafe_load",
}
FORBIDDEN_TRUE_ARGUMENTS = {"allow_pickle", "shell", "trust_remote_code"}


def source_files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported_names(node: ast.AST) -> list[str]:
    """Full names that an import statement brings in: `from torch import load` gives `torch.load`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def forbidden_in_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    if name in FORBIDDEN_BUILTINS or name in FORBIDDEN_CALLS:
        yield name
    for keyword in call.keywords:
        is_off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        if keyword.arg in FORBIDDEN_TRUE_ARGUMENTS and not is_off:
            yield f"{keyword.arg}={ast.unparse(keyword.value)}"


def forbidden_uses(tree: ast.Module) -> Iterator[str]:
    """Each forbidden import, call or argument as `line: what`."""
    for node in ast.walk(tree):
        found = [n for n in imported_names(node) if n.split(".")[0] in FORBIDDEN_MODULES or n in FORBIDDEN_CALLS]
        if isinstance(node, ast.Call):
            found += forbidden_in_call(node)
        yield from (f"{node.lineno}: {what}" for what in found)


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def make_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):", text, flags=re.MULTILINE))


def make_commands(document: Path) -> set[str]:
    """Targets of the `make` commands in a document's code: whole lines of a block, or between backticks."""
    text = document.read_text(encoding="utf-8")
    return set(re.findall(r"(?:^\s*(?:\$ )?|`)make ([a-z][a-z-]*)", text, flags=re.MULTILINE))


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def direct_requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [Requirement(text) for text in [*project["dependencies"], *extras["dev"]]]


def packages() -> set[str]:
    """Every package of the source but the outermost, by its path."""
    return {path.parent.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*/__init__.py")} - {"."}


def test_the_architecture_names_every_package_once_and_no_file_that_is_gone():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z/]+)` \|", text, flags=re.MULTILINE)
    assert sorted(rows) == sorted(packages())
    named = set(re.findall(r"`([a-z_/]+/[a-z_]*(?:\.[a-z]+)?)`", text)) - set(rows)
    gone = [one for one in named if not any((place / one).exists() for place in (SOURCE, ROOT))]
    assert gone == []


def test_every_source_file_opens_with_a_docstring():
    without = [shown(path) for path in source_files() if not ast.get_docstring(parse(path))]
    assert without == []


def test_source_runs_no_code_from_data_and_opens_no_shell():
    found = [f"{shown(path)}:{use}" for path in source_files() for use in forbidden_uses(parse(path))]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import marshal as m",
        "from torch import load",
        "eval('1')",
        "exec(text)",
        "compile(text, '', 'exec')",
        "__import__(name)",
        "yaml.load(text)",
        "torch.load(path)",
        "os.system(command)",
        "subprocess.run(command, shell=True)",
        "subprocess.run(command, shell=flag)",
        "numpy.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
    ],
)
def test_the_check_of_forbidden_code_finds_it(code):
    assert len(list(forbidden_uses(ast.parse(code)))) == 1


@pytest.mark.parametrize(
    "code", ["model.eval()", "re.compile(text)", "torch.compile(model)", "numpy.load(path, allow_pickle=False)"]
)
def test_the_check_of_forbidden_code_leaves_its_namesakes_alone(code):
    assert list(forbidden_uses(ast.parse(code))) == []


def test_no_source_file_is_too_long():
    lengths = {shown(path): len(path.read_text(encoding="utf-8").splitlines()) for path in source_files()}
    assert {name: length for name, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_no_function_is_too_long():
    too_long = {
        f"{shown(path)}:{function.lineno} {function.name}": length
        for path in source_files()
        for function in functions(parse(path))
        if (length := (function.end_lineno or 0) - function.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert too_long == {}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "bench/README.md"])
def test_the_make_commands_of_a_document_exist(name):
    assert make_commands(ROOT / name) <= make_targets()


def test_the_readme_names_the_two_commands_of_a_newcomer():
    assert {"demo", "test"} <= make_commands(ROOT / "README.md")


@pytest.mark.parametrize("name", ["SECURITY.md", "docs/serving.md"])
def test_every_test_that_a_document_names_exists(name):
    named = re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", (ROOT / name).read_text(encoding="utf-8"))
    assert named
    texts = {file: (ROOT / file).read_text(encoding="utf-8") for file, _ in named if (ROOT / file).is_file()}
    there = {(file, test) for file, test in named if (f"\ndef {test}(" if test else "\n") in texts.get(file, "")}
    assert sorted(set(named) - there) == []


def test_every_promise_of_security_names_its_tests():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    promises = re.findall(r"^\| (?!promise|---)(.+?) \| (.+?) \|$", text, flags=re.MULTILINE)
    assert promises
    one = r"`tests/[^`:]+::test_\w+`"
    assert [promise for promise, tests in promises if not re.fullmatch(rf"{one}(, {one})*", tests)] == []


def test_the_public_names_import():
    package = importlib.import_module("chatwright")
    assert package.__all__
    assert [name for name in package.__all__ if not hasattr(package, name)] == []


def test_every_direct_dependency_is_pinned_to_a_version_that_it_allows():
    pinned = pins()
    wrong = [
        f"{requirement}: pinned {pinned.get(canonicalize_name(requirement.name))}"
        for requirement in direct_requirements()
        if not requirement.specifier.contains(pinned.get(canonicalize_name(requirement.name), "0"), prereleases=True)
    ]
    assert wrong == []


def test_pins_are_exact_and_free_of_build_tags():
    assert [f"{name}=={version}" for name, version in pins().items() if not re.fullmatch(r"[\w.]+", version)] == []


def test_the_list_of_benchmarks_names_each_file():
    listed = subprocess.run([sys.executable, "bench"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    benchmarks = [path.name for path in (ROOT / "bench").glob("*.py") if not path.name.startswith("_")]
    assert [name for name in benchmarks if f"bench/{name}" not in listed] == []
