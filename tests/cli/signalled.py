"""`phiscale` in a process of its own, that is disturbed in its third epoch: signalled.py WHAT ARGUMENTS...

WHAT is the name of a signal that it sends itself, or `waits`: it prints its children's process ids, and waits for standard input to end.
"""

import os
import signal
import sys
from pathlib import Path

from phiscale.cli import console, main

what, progress = sys.argv[1], console.Steps.progress


def and_then(steps: console.Steps, name: str, done: int, total: int) -> None:
    progress(steps, name, done, total)
    if not name.startswith("epoch 3"):
        return
    if what == "waits":
        print(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text(), flush=True)
        sys.stdin.read()
    else:
        os.kill(os.getpid(), signal.Signals[what])


console.Steps.progress = and_then
sys.exit(main(sys.argv[2:]))
