"""From a baseline and images to coefficients: the feasible grid, a study that trains it, what may be concluded, a report."""

import csv
import io
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from phiscale.allocator import keep_freed_memory
from phiscale.architecture import Design
from phiscale.architecture.catalog import rows as published
from phiscale.architecture.toml import dumps
from phiscale.atomic import as_run_error, write_text
from phiscale.cost import Budget
from phiscale.data.find import ImageSet, find_images, fingerprint
from phiscale.data.load import typical_side
from phiscale.errors import ArgumentError, PhiscaleError, RunError
from phiscale.jobs.choose import ENLARGE, LEAST_USEFUL, named_design
from phiscale.jobs.watch import Watcher
from phiscale.report.study import write_study
from phiscale.runtime.machine import available_threads
from phiscale.search import Candidate, Grid, feasible
from phiscale.search.setup import Setup
from phiscale.search.storage import need_optuna
from phiscale.search.study import Findings, Run, Study, give_folder
from phiscale.version import VERSION

ABOUT, COEFFICIENTS, TRIALS, CURVES, REPORT = "study.json", "coefficients.toml", "trials.csv", "curves.csv", "report.html"
LATENCY, DATABASE = "latency.csv", "study.db"
PATIENCE = 4.0  # seconds that an estimate steps for
CLOCKED = 0.3  # seconds that each network's latency is measured for
LOOK = 1.0  # seconds between two looks at the study
Show = Callable[[Sequence[Run]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a person asked of `search`, as study.json keeps it and --resume reads it."""

    baseline: str
    images: str
    ratio: float = 2.0
    tolerance: float = 0.05
    grid: Grid = Grid()
    budget: Budget = Budget()
    epochs: int = 9
    pruner: str = "halving"
    finalists: int = 4
    seeds: int = 3
    seed: int = 0
    resolution: int | None = None
    flip: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a search would train, before it does."""

    baseline: Design
    points: tuple[Candidate, ...]
    images: ImageSet
    setup: Setup


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A finished study: its folder (study.json, coefficients.toml, trials.csv, report.html), what it says, and every run."""

    folder: Path
    findings: Findings
    runs: tuple[Run, ...]


def plan(asked: Asked, *, watch: Watcher | None = None) -> Plan:
    """The feasible grid on a set of images. BudgetError where there is none; DataError where the images can't be used."""
    tell = watch or Watcher()
    images = find_images(asked.images, seed=asked.seed)
    baseline = named_design(asked.baseline)
    if asked.resolution is not None:
        baseline = baseline.at(asked.resolution)
    elif (side := max(LEAST_USEFUL, ENLARGE * typical_side(images))) < baseline.resolution:
        tell.say(f"the images are small, so the baseline looks at {side} px instead of {baseline.resolution}; --resolution says otherwise")
        baseline = baseline.at(side)
    baseline = baseline.with_classes(len(images.classes))
    points = feasible(
        baseline, grid=asked.grid, ratio=asked.ratio, tolerance=asked.tolerance, budget=asked.budget,
        latency=_latencies if asked.budget.latency is not None else None,
    )  # fmt: skip
    from phiscale.jobs.proxy import proxy_recipe

    recipe = proxy_recipe(len(images.splits["train"]), epochs=asked.epochs)
    recipe = replace(recipe, augment=replace(recipe.augment, flip=asked.flip))
    ranges = {
        name: f"{r.low:g}:{r.high:g}:{r.step:g}"
        for name, r in (("alpha", asked.grid.alpha), ("beta", asked.grid.beta), ("gamma", asked.grid.gamma))
    }
    setup = Setup(
        baseline=baseline,
        images={
            "source": asked.images,
            "fingerprint": fingerprint(images),
            "classes": len(images.classes),
            "train": len(images.splits["train"]),
            "val": len(images.splits["val"]),
        },
        recipe=json.loads(json.dumps(recipe.to_dict())),
        asked={"ratio": asked.ratio, "tolerance": asked.tolerance, "limits": str(asked.budget)} | ranges,
        epochs=asked.epochs,
        pruner=asked.pruner,
        finalists=asked.finalists,
        seeds=asked.seeds,
        seed=asked.seed,
    )
    return Plan(baseline=baseline, points=points, images=images, setup=setup)


def _latencies(designs: Sequence[Design]) -> list[float]:
    from phiscale.deploy.latency import bench

    rows = bench({str(number): made for number, made in enumerate(designs)}, seconds=0.5)
    return [stats.p50 / 1e3 for _, stats in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """How long a study would take on this machine as it is now, in seconds.

    seconds    with pruning as successive halving leaves it: a third goes on after epoch 1, a third of those after epoch 3, ...
    unpruned   where every run goes to its end: it can't take longer
    step       measured: one training image of the baseline, with `threads` threads
    at_once    how many workers the processors can really keep busy
    """

    seconds: float
    unpruned: float
    step: float
    threads: int
    at_once: float


def estimate(plan: Plan, *, workers: int = 1, threads: int | None = None) -> Estimate:
    """From real training steps of the baseline, times multiply-adds, images and epochs."""
    cores, each = available_threads(), _threads_of_each(workers, threads)
    step = _step_seconds(plan, each)
    setup, first, left, since, rung = plan.setup, 0.0, float(len(plan.points)), 0, 1
    whole = left * setup.epochs
    if setup.pruner == "none":
        first, since = whole, setup.epochs
    while since < setup.epochs:
        until = min(rung, setup.epochs)
        first += max(1.0, left) * (until - since)
        left, since, rung = left / 3, until, rung * 3
    final = min(setup.finalists, len(plan.points)) * setup.seeds * setup.epochs
    seen = setup.images["train"] + setup.images["val"] / 3  # validation is one forward pass, a third of a step
    mean_macs = sum(point.cost.macs for point in plan.points) / len(plan.points)
    at_once = max(1.0, min(workers, cores / each))
    epoch = seen * step * mean_macs / plan.baseline.cost.macs / at_once
    return Estimate(seconds=(first + final) * epoch, unpruned=(whole + final) * epoch, step=step, threads=each, at_once=at_once)


def _threads_of_each(workers: int, threads: int | None) -> int:
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and value < 1:
            raise ArgumentError(f"{name} must be at least 1, got {value}")
    return threads or max(1, available_threads() // workers)


def _step_seconds(plan: Plan, threads: int) -> float:
    """Seconds that an image takes in a training step of the baseline: the quickest, as neighbours and first steps only ever delay."""
    import torch

    from phiscale.training.compute import Compute
    from phiscale.training.loop import make_accelerator
    from phiscale.training.recipe import Recipe
    from phiscale.training.trial import take_steps

    before, recipe, compute = torch.get_num_threads(), Recipe.from_dict(plan.setup.recipe), Compute()
    torch.set_num_threads(threads)
    try:
        took = take_steps(plan.baseline, recipe.batch, recipe, compute, make_accelerator(compute), most=12, patience=PATIENCE)
    finally:
        torch.set_num_threads(before)
    return min(took) / recipe.batch


def search(
    asked: Asked,
    *,
    storage: str | None = None,
    name: str = "search",
    workers: int = 1,
    threads: int | None = None,
    out: str | Path | None = None,
    watch: Watcher | None = None,
    show: Show | None = None,
) -> Result:
    """Train the feasible grid and find α, β, γ: a study in the folder `out` (None: studies/BASELINE-IMAGES), with `workers` processes.

    storage  None: one SQLite file in the folder; or see search/storage.py
    RunError, with the difference, where the folder or the storage holds a study made for something else.
    """
    need_optuna()
    _threads_of_each(workers, threads)
    tell = watch or Watcher()
    folder = Path(out) if out is not None else Path("studies") / f"{Path(asked.baseline).stem}-{Path(asked.images).resolve().stem}"
    made = plan(asked, watch=tell)
    try:
        give_folder(folder)
    except OSError as error:
        raise as_run_error(error, folder.parent) from error
    url = storage or f"sqlite:///{(folder / DATABASE).resolve()}"
    about = {
        "phiscale": VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "baseline": asked.baseline,
        "images": str(Path(asked.images).resolve()) if Path(asked.images).exists() else asked.images,
        "storage": storage,
        "study": name,
        "workers": workers,
    }
    with Study.create(made.setup, made.points, storage=url, name=name, folder=folder) as study:
        write_text(folder / ABOUT, json.dumps(about, indent=1) + "\n")
        tell.began(folder)
        tell.say(f"study: {len(made.points)} networks at {asked.ratio:g} times {made.baseline.name}, in {folder}")
        return _run(study, folder, images=str(about["images"]), workers=workers, threads=threads, show=show)


def join(
    where: str,
    *,
    images: str | None = None,
    name: str = "search",
    workers: int = 1,
    threads: int | None = None,
    show: Show | None = None,
    watch: Watcher | None = None,
) -> Result | None:
    """Go on with a study, or help with it: `where` is its folder, or its storage's address (then `images` is needed; no folder is written).

    A folder gives back the Result; a bare storage None, because the report is written where the folder is.
    """
    need_optuna()
    _threads_of_each(workers, threads)
    tell = watch or Watcher()
    folder = Path(where) if "://" not in where and not where.startswith("journal:") else None
    url = where
    if folder is not None:
        about = _about(folder)
        url = about["storage"] or f"sqlite:///{(folder / DATABASE).resolve()}"
        name, images = about["study"], images or about["images"]
        if about["storage"] is None and not (folder / DATABASE).is_file():
            raise RunError(
                f"{folder}/{DATABASE} is gone; run the first command again with -o {folder}: finished trials are read back from it"
            )
    if images is None:
        raise ArgumentError("joining by a storage's address needs the images on this machine: phiscale search --join ADDRESS IMAGES")
    with Study.join(storage=url, name=name, folder=folder) as study:
        _refuse_other_images(study, images)
        if folder is not None:
            study.read_back()
            tell.began(folder)
            return _run(study, folder, images=images, workers=workers, threads=threads, show=show)
        _train(study, None, images=images, workers=workers, threads=threads, show=show)
        return None


def _about(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        assert isinstance(about, dict)
    except (OSError, ValueError, AssertionError):
        raise ArgumentError(
            f"{folder} is no study: it has no readable {ABOUT}; `phiscale search BASELINE IMAGES -o {folder}` makes one"
        ) from None
    return about


def _refuse_other_images(study: Study, images: str) -> None:
    found = find_images(images, seed=study.setup.seed)
    study.refuse_other(replace(study.setup, images=dict(study.setup.images) | {"fingerprint": fingerprint(found)}))


# --- the workers -------------------------------------------------------------------------------------


def _run(study: Study, folder: Path, *, images: str, workers: int, threads: int | None, show: Show | None) -> Result:
    _train(study, folder, images=images, workers=workers, threads=threads, show=show)
    study.keep()
    runs, found = study.runs(), study.findings()
    write_text(folder / COEFFICIENTS, coefficients_toml(study.setup, found))
    write_text(folder / TRIALS, trials_csv(runs))
    write_text(folder / CURVES, curves_csv(runs))
    clock, latency = _clocked(folder, runs, found)
    write_study(folder / REPORT, setup=study.setup, runs=runs, findings=found, latency=latency, clock=clock)
    return Result(folder=folder, findings=found, runs=tuple(runs))


def _clocked(folder: Path, runs: Sequence[Run], found: Findings) -> tuple[str, dict[str, float]]:
    """How, and milliseconds of one image by key, of every network that was trained whole: measured once, kept in latency.csv."""
    from phiscale.deploy.latency import bench

    wanted = {run.point.key: run.point for run in runs if run.state == "done" or run.point.key in {one.key for one in found.standings}}
    file = folder / LATENCY
    rows = _latency_rows(file)
    if {row["key"] for row in rows} != set(wanted):
        measured = bench({key: point.design for key, point in wanted.items()}, seconds=CLOCKED)
        columns = ("key", "p50_ms", "runtime", "precision", "threads", "n")
        rows = [
            dict(zip(columns, map(str, (key, f"{of.p50:.4g}", w.runtime, w.precision, w.threads, of.n)), strict=True))
            for key, of in measured
            for w in (of.setting,)
        ]
        out = io.StringIO()
        table = csv.DictWriter(out, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        write_text(file, out.getvalue())
    how = "; ".join(sorted({f"{row['runtime']}, {row['precision']}, {row['threads']} threads" for row in rows}))
    said = f"Median of one image ({how}), random weights, on the machine of this study."
    return said, {row["key"]: float(row["p50_ms"]) for row in rows}


def _latency_rows(file: Path) -> list[dict[str, str]]:
    """What was measured before; none where the file can't be read."""
    try:
        with file.open(encoding="utf-8", newline="") as text:
            rows = list(csv.DictReader(text))
        return [row for row in rows if float(row["p50_ms"]) > 0 and {"key", "runtime", "precision", "threads"} <= set(row)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _train(study: Study, folder: Path | None, *, images: str, workers: int, threads: int | None, show: Show | None) -> None:
    """Worker processes until every run is over. A worker that fails says why; the others go on, and the last one's failure is ours."""
    each = _threads_of_each(workers, threads)
    context = multiprocessing.get_context("spawn")
    said: Any = context.SimpleQueue()
    given = (study.url, study.study.study_name, None if folder is None else str(folder), images, each, os.getpid(), said)
    processes = [context.Process(target=_worker, args=given, daemon=True) for _ in range(workers)]
    for process in processes:
        process.start()
    try:
        while any(process.is_alive() for process in processes):
            if show is not None:
                show(study.runs())
            processes[0].join(LOOK)
            if not processes[0].is_alive():
                processes = processes[1:] + processes[:1]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(20)
    runs = study.fill()
    if show is not None:
        show(runs)
    if not all(run.over for run in runs):
        codes = ", ".join(str(process.exitcode) for process in processes)
        why = (
            said.get()
            if not said.empty()
            else f"every worker process ended early (exit status {codes}; -9: killed, often for want of memory)"
        )
        raise RunError(why)


def _worker(url: str, name: str, folder: str | None, images: str, threads: int, parent: int, said: Any) -> None:
    """A worker process: joins the study and trains until it is over, or until the process that started it is gone."""
    from phiscale.jobs.proxy import make_proxy
    from phiscale.jobs.proxy import threads as use_threads

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    keep_freed_memory()
    try:
        use_threads(threads)
        with Study.join(storage=url, name=name, folder=None if folder is None else Path(folder)) as study:
            setup = study.setup
            found = find_images(images, seed=setup.seed)
            flip = bool(setup.recipe.get("augment", {}).get("flip", True))
            proxy = make_proxy(found, setup.baseline, epochs=setup.epochs, flip=flip)
            study.work(proxy, stop=lambda: os.getppid() != parent)
    except KeyboardInterrupt:
        return
    except PhiscaleError as error:
        said.put(str(error))
        raise SystemExit(1) from None


# --- what is written ---------------------------------------------------------------------------------


def coefficients_toml(setup: Setup, found: Findings) -> str:
    """The file that `--coefficients` takes, with what is known of it."""
    best = found.standings[0]
    values: dict[str, Any] = {
        "schema": 1,
        "baseline": _published_name(setup.baseline),
        "coefficients": _letters(found.winner),
        "search": {
            "ratio_after_rounding": round(found.winner.ratio, 4),
            "macs": found.winner.cost.macs,
            "images": str(setup.images.get("source", "")),
            "epochs": setup.epochs,
            "seeds": best.n,
            "top1": round(best.mean, 5),
            "better_than_guessing": found.learned,
            "top1_sd": None if best.sd is None else round(best.sd, 5),
            "same_network": [list(triple) for triple in found.winner.aliases],
        },
        "not_told_apart": [_letters(point) for point in found.unsure],
    }
    if not found.unsure:
        del values["not_told_apart"]
    return dumps(values)


def _published_name(baseline: Design) -> str:
    """The catalog's name where the network is that one, at whatever resolution and for any classes; else what was done to it."""
    row = published().get(baseline.origin.baseline)
    same = row is not None and row.design.with_classes(baseline.spec.num_classes).spec == baseline.spec
    return baseline.origin.baseline if same else baseline.name


def _letters(point: Candidate) -> dict[str, float]:
    c = point.coefficients
    return {"alpha": c.alpha, "beta": c.beta, "gamma": c.gamma}


def trials_csv(runs: Sequence[Run]) -> str:
    """A row a run."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(
        ("key", "alpha", "beta", "gamma", "ratio", "macs", "params", "resolution", "seed", "state", "epochs", "top1", "seconds", "why")
    )
    for run in runs:
        c, top1 = run.point.coefficients, run.top1 if run.top1 is not None else (run.curve[-1][1] if run.curve else None)
        table.writerow(
            (
                run.point.key,
                c.alpha,
                c.beta,
                c.gamma,
                round(run.point.ratio, 4),
                run.point.cost.macs,
                run.point.cost.params,
                run.point.design.resolution,
                run.seed,
                run.state,
                run.curve[-1][0] if run.curve else 0,
                top1,
                run.seconds,
                run.why,
            )
        )
    return out.getvalue()


def curves_csv(runs: Sequence[Run]) -> str:
    """A row an epoch of each run."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(("key", "seed", "epoch", "top1"))
    table.writerows((run.point.key, run.seed, epoch, top1) for run in runs for epoch, top1 in run.curve)
    return out.getvalue()
