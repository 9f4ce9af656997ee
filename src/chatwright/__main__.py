"""`python -m chatwright`, which torchrun needs."""

from chatwright.cli.main import main

main()
