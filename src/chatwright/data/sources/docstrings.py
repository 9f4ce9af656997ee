"""The documentation inside a Python module, read from its source with `ast`: nothing is imported or run."""

import ast
import gc
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from chatwright.data.sandbox import Unreadable

_MAX_SIGNATURE_CHARACTERS = 200
_Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class ModuleText(NamedTuple):
    """A module's documentation as one text."""

    text: str
    docstring_characters: int


class _Entry(NamedTuple):
    heading: str
    docstring: str


def quoted_characters(source: str) -> int:
    """Characters inside triple quotes: an upper estimate of a module's docstrings, far cheaper than parsing."""
    pieces = source.replace("'''", '"""').split('"""')
    return sum(map(len, pieces[1::2]))


def module_text(name: str, source: str) -> ModuleText:
    """Module name, its docstring, then each documented class and function: a line `name(signature)` and its docstring.

    In source order. A docstring that stands several times in the module (overrides often repeat it) is written once.

    Args:
        name: dotted.
        source: Python code.

    Raises:
        Unreadable: `syntax_error`, also for code nested too deeply for the parser.
    """
    tree = _parse(source)
    pieces = [name]
    docstring = (ast.get_docstring(tree) or "").strip()
    seen = {docstring}
    if docstring:
        pieces.append(docstring)
    total = len(docstring)
    for entry in _documented(tree, ""):
        if entry.docstring in seen:
            continue
        seen.add(entry.docstring)
        total += len(entry.docstring)
        pieces.append(f"{entry.heading}\n{_indented(entry.docstring)}")
    return ModuleText("\n\n".join(pieces), total)


def _parse(source: str) -> ast.Module:
    # The collector would walk the millions of nodes of a large tree again and again: parsing is twice as fast without.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the parsed code, such as its invalid escapes
            return ast.parse(source)
    except SyntaxError as error:
        raise Unreadable("syntax_error", f"line {error.lineno}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise Unreadable("syntax_error", f"{type(error).__name__}: {error}") from None
    finally:
        if was_enabled:
            gc.enable()


def _documented(parent: ast.AST, prefix: str) -> Iterator[_Entry]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, _Documented):
            docstring = (ast.get_docstring(node) or "").strip()
            if docstring:
                yield _Entry(_heading(node, prefix), docstring)
            if isinstance(node, ast.ClassDef):
                yield from _documented(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _documented(node, prefix)  # definitions for one platform or version


def _heading(node: _Documented, prefix: str) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, node.bases))
        return (
            f"class {prefix}{node.name}({bases})"
            if 0 < len(bases) <= _MAX_SIGNATURE_CHARACTERS
            else f"class {prefix}{node.name}"
        )
    signature = ast.unparse(node.args)
    if len(signature) > _MAX_SIGNATURE_CHARACTERS:
        signature = _names_only(node.args)
    return f"{prefix}{node.name}({signature})"


def _names_only(arguments: ast.arguments) -> str:
    """The names of the arguments: annotations and defaults can be longer than the documentation."""
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    if arguments.vararg:
        names.append(f"*{arguments.vararg.arg}")
    elif arguments.kwonlyargs:
        names.append("*")
    names += [argument.arg for argument in arguments.kwonlyargs]
    if arguments.kwarg:
        names.append(f"**{arguments.kwarg.arg}")
    return ", ".join(names)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.split("\n"))
