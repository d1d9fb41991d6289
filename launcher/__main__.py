"""`python -m launcher`: the console script where it is not on the path."""

from launcher.cli import main

main()
