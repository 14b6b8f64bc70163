"""`python -m ablatable`."""

from .cli import main

main()
