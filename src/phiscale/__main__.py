"""python -m phiscale: the command line."""

from phiscale.cli import command_line

command_line()
