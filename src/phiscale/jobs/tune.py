"""Before `fit`: which learning rate, and how large a batch."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from phiscale.architecture import Design
from phiscale.atomic import write_text
from phiscale.cost.memory import training_bytes
from phiscale.errors import ArgumentError, RunError
from phiscale.jobs.asked import Asked, free_name
from phiscale.jobs.plan import Planner
from phiscale.jobs.watch import Watcher
from phiscale.report.rates import Curve, rates_svg, write_rates
from phiscale.runtime.machine import free_bytes
from phiscale.training import Recipe
from phiscale.training.rates import Rates, range_test

SPARE = 0.1  # of the free memory, which is left to others
TRIES = 10
ROUND = 8  # a large batch is a multiple of this


def find_lr(asked: Asked, *, out: Path | None = None, watch: Watcher | None = None) -> tuple[Path, Rates]:
    """The range test for what `asked` would train: rates.csv, rates.svg and rates.html in `out` (None: runs/IMAGES-lr), and its rows."""
    watch = watch or Watcher()
    folder = out or free_name(replace(asked, network="lr"))
    if asked.threads:
        torch.set_num_threads(asked.threads)
    planner = Planner(asked, folder, watch.say)
    found = planner.find(watch.progress)
    plan = planner.plan(found)
    design, recipe = plan.design, plan.recipe
    found, cache = planner.open(found, plan.preprocess, watch.progress)
    rates = range_test(
        plan.network, found, recipe=recipe, compute=plan.compute, preprocess=plan.preprocess, seed=asked.seed, cache=cache,
        workers=asked.workers, teacher=plan.teacher, progress=watch.progress,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    rows = zip(rates.rates, rates.losses, rates.smoothed, strict=True)
    lines = ["learning_rate,loss,smoothed", *(",".join(f"{value:.6g}" for value in row) for row in rows)]
    write_text(folder / "rates.csv", "\n".join(lines) + "\n")
    own = recipe.peak_rate(recipe.batch)
    curve = Curve(rates=rates.rates, losses=rates.losses, smoothed=rates.smoothed, suggested=rates.suggested, own=own)
    write_text(folder / "rates.svg", rates_svg(curve))
    write_rates(folder / "rates.html", curve, title=f"{design.name}, recipe {recipe.name}", command=asked.command)
    return folder, rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Fits:
    """The largest batch that fits `limit_bytes`; estimated by analysis, and the peak that trying it measured."""

    batch: int
    estimated_bytes: int
    measured_bytes: int
    limit_bytes: int
    tried: tuple[tuple[int, int | None], ...]  # (batch, peak bytes, None where it did not fit)


def find_batch(asked: Asked, *, limit_bytes: int | None = None, watch: Watcher | None = None) -> Fits:
    """The largest batch with which `asked` would train in `limit_bytes` (None: what is free here, on the GPU where there is one).

    ArgumentError where not even two images fit.
    """
    watch = watch or Watcher()
    planner = Planner(asked, Path(), watch.say)
    found = planner.find(watch.progress)
    design = planner.design(found)[0]
    recipe = planner.recipe(len(found.splits["train"]), design)
    planner.load(design, planner.weights(recipe))  # weights that are carried over train all layers
    recipe = planner.recipe_as_asked(recipe)
    limit = limit_bytes if limit_bytes is not None else round(free() * (1 - SPARE))
    most = len(found.splits["train"])
    return largest(design.with_classes(len(found.classes)), recipe, asked, limit, most, watch)


def free() -> float:
    """Bytes that training may take: of the GPU where there is one, else of the machine."""
    return float(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else free_bytes()


def largest(design: Design, recipe: Recipe, asked: Asked, limit: int, most: int, watch: Watcher) -> Fits:
    """Try what the estimate says, and follow what was measured."""
    tried: dict[int, int | None] = {}

    def estimate(batch: int) -> int:
        return training_bytes(design.spec, design.resolution, batch, copies=5 if recipe.ema_decay else 4)

    low, high, guess = 0, most + 1, whole(max((b for b in _steps(most) if estimate(b) <= limit), default=2))
    for number in range(TRIES):
        watch.say(f"trying a batch of {guess}")
        peak = tried[guess] = tried_peak(design, recipe, asked, guess)
        watch.progress("trying", number + 1, TRIES)
        if peak is None or peak > limit:
            high = min(high, guess)
            wanted = (low + guess) / 2 if peak is None else guess * limit / peak
        else:
            low = max(low, guess)
            wanted = guess * limit / max(1, peak)
        nxt = whole(min(max(low + 1, 2, int(wanted)), high - 1))
        if nxt <= low or nxt in tried or nxt < 2:
            break
        guess = nxt
    if not low:
        raise ArgumentError(f"not even a batch of {min(tried)} fits {limit / 1e9:.2f} GB; lower --resolution, or take a smaller --network")
    return Fits(batch=low, estimated_bytes=estimate(low), measured_bytes=tried[low] or 0, limit_bytes=limit, tried=tuple(tried.items()))


def _steps(most: int) -> list[int]:
    return [batch for batch in range(2, most + 1) if batch == whole(batch)] or [most]


def whole(batch: int) -> int:
    """A large batch rounded down to a multiple of 8.

    >>> whole(13), whole(37)
    (13, 32)
    """
    return batch if batch < 2 * ROUND else batch // ROUND * ROUND


def tried_peak(design: Design, recipe: Recipe, asked: Asked, batch: int) -> int | None:
    """Bytes that two steps took at their peak beyond the process itself, in a process of its own; None where it ran out of memory."""
    given = {
        "design": design.to_toml(), "recipe": recipe.to_dict(), "batch": batch, "threads": asked.threads,
        "compute": {name: getattr(asked, name) for name in ("precision", "accumulate", "compile", "channels_last")},
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "phiscale.training.trial"], input=json.dumps(given), capture_output=True, text=True)
    if done.returncode == 0:
        return int(done.stdout.split()[-1])
    if done.returncode in (-9, 3):  # the system's killer of the hungry, or our own word for it
        return None
    raise RunError(f"a step with a batch of {batch} failed for another reason than memory: {done.stderr.strip()[-500:]}")
