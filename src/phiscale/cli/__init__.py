"""Floor 6 · the command line: parse, call one job or function, print.

Comes in: arguments.  Goes out: results on standard output, everything else on standard error, an exit status.
Never: computes; imports a command (let alone torch) that was not asked for; shows a traceback for what can be foreseen.
Start reading: app.py, the list of commands. To add one: a file here with a function `command`, and its line there.
"""

from phiscale.cli.app import command_line, main

__all__ = ["command_line", "main"]
