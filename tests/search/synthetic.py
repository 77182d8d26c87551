"""A study without training: a quick stand-in for it, and processes that work on it."""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from phiscale.architecture import Design
from phiscale.architecture.catalog import design
from phiscale.search import Candidate, Grid, Range, feasible
from phiscale.search.setup import Setup
from phiscale.search.study import Job, Report, Score, Study

NAME = "tiny"


def baseline() -> Design:
    return replace(design("efficientnet_b0").at(64), origin=design("efficientnet_b0").origin)


def points() -> tuple[Candidate, ...]:
    grid = Grid(alpha=Range(low=1.0, high=1.5, step=0.1), beta=Range(low=1.0, high=1.4, step=0.1), gamma=Range(low=1.0, high=1.4, step=0.1))
    return feasible(baseline(), grid=grid, tolerance=0.1)


def setup(**others: object) -> Setup:
    plain: dict[str, object] = {"baseline": baseline(), "epochs": 3, "finalists": 2, "seeds": 2, "images": {"fingerprint": "f00d"}}
    return Setup(**(plain | others))  # type: ignore[arg-type]


def accuracy(job: Job) -> float:
    """Highest at gamma = 1.1, with a seed's noise."""
    c = job.point.coefficients
    noise = np.random.default_rng([job.seed, int(job.point.key, 16) % 2**31]).normal(0, 0.004)
    return float(0.7 - 0.5 * (c.gamma - 1.1) ** 2 - 0.1 * (c.alpha - 1.2) ** 2 + noise)


def objective(job: Job, report: Report, *, seconds: float = 0.0, log: Path | None = None) -> Score:
    if log is not None:
        with log.open("a") as file:
            file.write(f"{job.run}\n")
    for epoch in range(1, job.epochs + 1):
        time.sleep(seconds / job.epochs)
        report(epoch, accuracy(job) * epoch / job.epochs)
    right = np.random.default_rng(job.seed).random(200) < accuracy(job)
    return Score(top1=accuracy(job), hits=right)


if (
    __name__ == "__main__"
):  # a worker process: URL, seconds of a run, the file that gets a line for each run begun, seconds of grace, folder
    url, seconds, log, grace = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
    folder = Path(sys.argv[5]) if len(sys.argv) > 5 else None
    study = Study.join(storage=url, name=NAME, folder=folder)
    print("joined", flush=True)
    study.work(lambda job, report: objective(job, report, seconds=seconds, log=log), grace=grace)
