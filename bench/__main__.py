"""List the benchmarks beside this file, each with its first line and its call. It runs none of them."""

import ast
from pathlib import Path


def main() -> None:
    """Print one entry per benchmark; the text is the first line of its docstring, read without importing it."""
    here = Path(__file__).parent
    benchmarks = sorted(path for path in here.glob("*.py") if not path.name.startswith("_"))
    print(
        "Each measures against a named peer in the same run; see bench/README.md."
        if benchmarks
        else "no benchmarks yet"
    )
    for path in benchmarks:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "(no docstring)"
        print(f"\n  {docstring.splitlines()[0]}\n    .venv/bin/python bench/{path.name} --help")


if __name__ == "__main__":
    main()
