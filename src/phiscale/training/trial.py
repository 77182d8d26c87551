"""A few training steps on noise, as the loop takes them: how long they take, and, in a process of their own, how much memory.

Run by jobs/tune.py; reads JSON, prints bytes.
"""

import json
import sys
import time
from typing import Any

import torch
from accelerate import Accelerator

from phiscale.architecture import Design, NetworkSpec, Stage
from phiscale.architecture.preprocess import Preprocess
from phiscale.kernels import accelerate, freeze_norms
from phiscale.training.compute import Compute
from phiscale.training.ema import Ema
from phiscale.training.log import peak_bytes
from phiscale.training.loop import compiled, make_accelerator, to_input
from phiscale.training.objective import Objective
from phiscale.training.optim import make_optimizer, without_compiler
from phiscale.training.recipe import Recipe
from phiscale.weights import create_model

OUT_OF_MEMORY = 3  # exit status
TINY = Design(spec=NetworkSpec(stages=(Stage(kind="mbconv", depth=1, width=8, expand=2, se=0.25),)), resolution=32)


def main() -> int:
    """0 and the peak on standard output, or 3 where memory ran out."""
    given = json.load(sys.stdin)
    if given["threads"]:
        torch.set_num_threads(given["threads"])
    design, recipe, compute = Design.from_toml(given["design"]), Recipe.from_dict(given["recipe"]), Compute(**given["compute"])
    accelerator = make_accelerator(compute)
    take_steps(TINY, 2, recipe, compute, accelerator)  # what torch loads at its first step is not this design's
    before = peak_bytes()
    if torch.cuda.is_available():
        before = 0
        torch.cuda.reset_peak_memory_stats()
    try:
        take_steps(design, given["batch"], recipe, compute, accelerator)
    except (torch.OutOfMemoryError, MemoryError):
        return OUT_OF_MEMORY
    except RuntimeError as error:
        if "memory" in str(error).lower():  # torch's allocator on CPUs
            return OUT_OF_MEMORY
        raise
    print(peak_bytes() - before)
    return 0


@without_compiler()
def take_steps(
    design: Design, batch: int, recipe: Recipe, compute: Compute, accelerator: Accelerator, *, most: int = 2, patience: float = 0.0
) -> list[float]:
    """Seconds of each step: two, and on to `most` for as long as `patience` seconds allow."""
    device, size, classes = accelerator.device, design.resolution, max(2, design.spec.num_classes)
    network = create_model(
        design, num_classes=classes, dropout=recipe.dropout, drop_path=recipe.drop_path, bn_momentum=recipe.bn_momentum, seed=0
    )
    network = network.to(device, memory_format=compute.layout)  # pyright: ignore[reportCallIssue]
    if not compute.compile:
        accelerate(network)
    preprocess = Preprocess(crop=size, resize=size)
    objective = Objective(recipe, network, preprocess=preprocess, counts=[1] * classes)
    if recipe.freeze_norms:
        freeze_norms(network)
    optimizer = make_optimizer(recipe, network, rate=1e-6)
    ema = Ema(network, recipe.ema_decay) if recipe.ema_decay else None
    made: Any = compiled(network) if compute.compile else network
    model, optimizer = accelerator.prepare(made, optimizer, device_placement=[False, False])
    network.train()
    took: list[float] = []
    while len(took) < 2 or (len(took) < most and sum(took) < patience):
        start = time.perf_counter()
        for part in torch.arange(batch).tensor_split(compute.accumulate):
            if not len(part):
                continue
            pixels = torch.randint(0, 256, (len(part), 3, size, size), dtype=torch.uint8)
            images = to_input(pixels, preprocess, device, layout=compute.layout)
            labels = torch.randint(0, classes, (len(part),), device=device)
            loss, _ = objective(model, images, labels, torch.zeros_like(labels), seed=0)
            accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        if ema is not None:
            ema.update(network)
        took.append(time.perf_counter() - start)
    return took


if __name__ == "__main__":
    sys.exit(main())
