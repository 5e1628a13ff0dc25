"""`python -m foreshore` is the `foreshore` command."""

from foreshore.cli import main

main()
