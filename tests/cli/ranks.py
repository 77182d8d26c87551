"""`phiscale fit ARGUMENTS...` on torchrun's two processes, each in a working folder of its own, as machines have: first into `whole`;
then into `killed`, in which the last process is killed in the student's second epoch, and which all go on with when torchrun starts
them again."""

import functools
import os
import signal
import sys
from pathlib import Path

from phiscale.cli import main
from phiscale.deploy.bundle import export_bundle
from phiscale.jobs import fit
from phiscale.training import loop

rank, again = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"] != "0"
Path(rank).mkdir(exist_ok=True)
os.chdir(rank)
fit.export_bundle = functools.partial(export_bundle, seconds=0.001)
one_step = loop._Training.one_step


def dying(self: loop._Training, *batch: object) -> None:
    if rank == "1" and self.recipe.pseudo.rounds and self.epoch == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    one_step(self, *batch)  # type: ignore[arg-type]


if again:
    sys.exit(main(["fit", "--resume", "killed"]))
status = main(["fit", *sys.argv[1:], "-o", "whole"])
loop._Training.one_step = dying
sys.exit(status or main(["fit", *sys.argv[1:], "-o", "killed"]))
