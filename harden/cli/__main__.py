"""`python -m harden.cli` is `harden`."""

from harden.cli import main

main()
