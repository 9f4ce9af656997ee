"""Options and arguments that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

RecipePath = Annotated[Path, typer.Argument(help="a TOML file", metavar="RECIPE")]
ModelPath = Annotated[Path, typer.Argument(help="a model directory", metavar="MODEL")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="override a key of the recipe: a.b=c", metavar="KEY=VALUE")
]
Again = Annotated[bool, typer.Option("--again", help="also what an earlier run could not get: parts set aside, pages")]
AsJson = Annotated[bool, typer.Option("--json", help="print the result for machines")]
