"""What each of torchrun's processes runs in test_processes.py: together.py IMAGES OUT TRAININGS...

Trainings, one after another into OUT/NAME: `plain` (norms synchronised), `probed` (frozen norms, a linear probe first), `parted`
(probed, each step in two parts), `dying` (plain, but the last process is killed in it where torchrun started it for the first time).
"""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch
from pictures import PREPROCESS, certain, draw, network

from phiscale.training import RECIPES, Compute, Recipe, loop, train
from phiscale.training.processes import Processes, processes


def recipe_of(name: str) -> Recipe:
    if name in ("probed", "parted"):
        return replace(RECIPES["finetune"](37), epochs=2, batch=8, frozen_stages=-1)
    return certain()


def run(images: Path, out: Path, name: str, together: Processes) -> None:
    recipe = recipe_of(name)
    compute = Compute(precision="float32", sync_norms=name not in ("probed", "parted"), accumulate=2 if name == "parted" else 1)
    losses: list[float] = []
    step = loop._Training.one_step

    def watched(self: loop._Training, *batch: torch.Tensor) -> None:
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
        if name == "dying" and first and together.rank == together.count - 1 and (self.epoch, self.step) == (1, 2):
            os.kill(os.getpid(), signal.SIGKILL)
        before = self.sums[0]
        step(self, *batch)
        losses.append((self.sums[0] - before) / self.recipe.batch)

    loop._Training.one_step = watched
    loop.CHECKPOINT_SECONDS = 0.0
    try:
        outcome = train(
            network(recipe), draw(images), recipe=recipe, preprocess=PREPROCESS, folder=out / name, compute=compute, processes=together
        )
    finally:
        loop._Training.one_step = step
    if together.main:
        torch.save(outcome.state, out / name / "state.pt")
        said = {"losses": losses, "n": outcome.val.n, "logits": outcome.val.logits.tolist(), "labels": outcome.val.labels.tolist()}
        (out / name / "said.json").write_text(json.dumps(said))


if __name__ == "__main__":
    torch.set_num_threads(1)
    together = processes(float(os.environ.get("TOGETHER_TIMEOUT", "60")))
    images, out = Path(sys.argv[1]) / str(together.rank), Path(sys.argv[2])
    for name in sys.argv[3:]:
        if not together.decide(lambda name=name: (out / name / "said.json").exists()):
            run(images, out, name, together)
