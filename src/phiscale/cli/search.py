"""phiscale search"""

import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from phiscale.allocator import keep_freed_memory
from phiscale.cli.console import Steps, emit, emit_json, say, table
from phiscale.cli.options import Json, Macs, Memory, Params, Seed
from phiscale.cost import Budget
from phiscale.cost.budget import amount_text
from phiscale.errors import ArgumentError
from phiscale.search import Candidate, Grid, Range

if TYPE_CHECKING:
    from phiscale.jobs.search import Asked, Plan, Result
    from phiscale.search.study import Run

SHOWN = 24  # rows of the live table
LONG = 6 * 3600.0  # seconds


def command(
    baseline: Annotated[str | None, Parameter(help="A published network or a design file. Default: that of --resume or --join.")] = None,
    images: Annotated[str | None, Parameter(help="Images as for `fit`. Default: those of --resume or --join.")] = None,
    /,
    *,
    ratio: Annotated[float, Parameter(help="Multiply-adds of the scaled networks over the baseline's.")] = 2.0,
    tolerance: Annotated[float, Parameter(help="How far the real ratio, after rounding, may be off: a share of it.")] = 0.05,
    alpha: Annotated[str, Parameter(help="Range of α (depth): LOW:HIGH or LOW:HIGH:STEP, or one number.")] = "1.0:1.6",
    beta: Annotated[str, Parameter(help="Range of β (width).")] = "1.0:1.4",
    gamma: Annotated[str, Parameter(help="Range of γ (resolution).")] = "1.0:1.4",
    macs: Macs = None,
    params: Params = None,
    memory: Memory = None,
    latency: Annotated[str | None, Parameter(help="Most time for one image on this machine, e.g. 15ms. Default: no limit.")] = None,
    epochs: Annotated[int, Parameter(help="Of a run that is not pruned.")] = 9,
    pruner: Annotated[str, Parameter(help="Which runs end early: halving, hyperband or none.")] = "halving",
    finalists: Annotated[int, Parameter(help="How many of the best points are trained again.")] = 4,
    seeds: Annotated[int, Parameter(help="How many fresh seeds each finalist is trained with.")] = 3,
    resolution: Annotated[int | None, Parameter(help="Pixels that the baseline looks at. Default: its own, less for small images.")] = None,
    flip: Annotated[bool, Parameter(negative="--no-flip", help="Whether mirror images train too.")] = True,
    seed: Seed = 0,
    workers: Annotated[int, Parameter(help="Processes that train on this machine.")] = 1,
    threads: Annotated[int | None, Parameter(help="Processor threads of each worker. Default: all, shared among the workers.")] = None,
    storage: Annotated[
        str | None,
        Parameter(
            help="sqlite:///FILE, journal:FILE, postgresql://... or grpc://HOST:PORT. Default: one SQLite file in the study's folder."
        ),
    ] = None,
    study: Annotated[str, Parameter(help="The study's name in its storage.")] = "search",
    output: Annotated[Path | None, Parameter(name=("--output", "-o"), help="The study's folder. Default: studies/BASELINE-IMAGES.")] = None,
    resume: Annotated[Path | None, Parameter(help="Go on with the study in this folder. Default: a new study.")] = None,
    join: Annotated[
        str | None, Parameter(help="Help with a study: its folder, or its storage's address and then IMAGES alone. Default: a new study.")
    ] = None,
    dry_run: Annotated[bool, Parameter(help="Print the feasible grid with its costs, and how long it would take.")] = False,
    as_json: Json = False,
) -> None:
    """Find α, β, γ for a baseline on your images: the small grid search of the EfficientNet paper.

    Networks of the grid whose real cost is RATIO times the baseline's are trained briefly; the best are trained again with fresh seeds.
    Ends with coefficients.toml for `phiscale design --coefficients`, and report.html. What was killed goes on with --resume.
    """
    from phiscale.jobs.search import Asked, plan, search
    from phiscale.jobs.search import join as help_with

    where = str(resume) if resume is not None else join
    if resume is not None and join is not None:
        raise ArgumentError("--resume goes on with a study of one's own, --join helps with somebody's; leave out one of them")
    if where is not None and images is not None:
        raise ArgumentError(f"the study {where} has its baseline; give at most the images, where they are elsewhere on this machine")
    decided = {
        "ratio": ratio, "tolerance": tolerance, "alpha": alpha, "beta": beta, "gamma": gamma, "macs": macs, "params": params,
        "memory": memory, "latency": latency, "epochs": epochs, "pruner": pruner, "finalists": finalists, "seeds": seeds,
        "resolution": resolution, "flip": flip, "seed": seed, "storage": storage, "output": output, "dry_run": dry_run,
    }  # fmt: skip
    own = signature(command).parameters
    if where is not None and (given := [name for name, value in decided.items() if value != own[name].default]):
        options = ", ".join("-o" if name == "output" else f"--{name.replace('_', '-')}" for name in given)
        raise ArgumentError(f"the study {where} has decided that already; leave out {options}, or start a new study")
    with Steps() as steps, _Live() as live:
        try:
            if where is not None:
                result = help_with(where, images=baseline, name=study, workers=workers, threads=threads, show=live.show, watch=steps)
                if result is None:
                    say("the study is finished; its report is in its own folder (phiscale search --resume FOLDER there)")
                    return
            else:
                if baseline is None or images is None:
                    raise ArgumentError(
                        "give a baseline and images (phiscale search efficientnet_b0 IMAGES), or --resume FOLDER, or --join STUDY"
                    )
                asked = Asked(
                    baseline=baseline, images=images, ratio=ratio, tolerance=tolerance,
                    grid=Grid(alpha=Range.parse(alpha, "alpha"), beta=Range.parse(beta, "beta"), gamma=Range.parse(gamma, "gamma")),
                    budget=Budget.parse(macs=macs, params=params, memory=memory, latency=latency), epochs=epochs, pruner=pruner,
                    finalists=finalists, seeds=seeds, seed=seed, resolution=resolution, flip=flip,
                )  # fmt: skip
                if dry_run:
                    keep_freed_memory()  # as the workers do
                    _tell_plan(asked, plan(asked, watch=steps), workers=workers, threads=threads, as_json=as_json)
                    return
                result = search(
                    asked, storage=storage, name=study, workers=workers, threads=threads, out=output, watch=steps, show=live.show
                )
        except KeyboardInterrupt:
            folder = steps.folder
            raise KeyboardInterrupt(f"interrupted; go on with: phiscale search --resume {folder}" if folder else "interrupted") from None
    _tell(result, as_json=as_json)


def _tell_plan(asked: "Asked", made: "Plan", *, workers: int, threads: int | None, as_json: bool) -> None:
    from phiscale.jobs.search import estimate

    about = estimate(made, workers=workers, threads=threads)
    if as_json:
        points = [_facts(point) for point in made.points]
        emit_json({"points": points, "seconds": round(about.seconds), "seconds_without_pruning": round(about.unpruned)})
        return
    emit(_grid(made.points))
    emit(
        f"{len(made.points)} networks of {len(asked.grid)} points; about {_duration(about.seconds)} with {workers} worker(s) "
        f"of {about.threads} thread(s), at most {_duration(about.unpruned)}: a training step of the baseline took "
        f"{about.step * 1e3:.3g} ms an image here, just now"
    )
    if about.seconds > LONG:
        say("that is long: half the --resolution is a quarter of the time; fewer --epochs, --finalists and --seeds cut the rest")


def _tell(result: "Result", *, as_json: bool) -> None:
    found = result.findings
    best, file = found.standings[0], result.folder / "coefficients.toml"
    if as_json:
        standings = [
            {"top1": one.mean, "sd": one.sd, "seeds": one.n, "behind": one.behind, "margin": one.margin, "told_apart": one.told_apart}
            for one in found.standings
        ]
        points = {run.point.key: run.point for run in result.runs}
        rows = [_facts(points[one.key]) | values for one, values in zip(found.standings, standings, strict=True)]
        emit_json({"study": str(result.folder), "coefficients": str(file), "winner": rows[0], "finalists": rows, "learned": found.learned})
        return
    c = found.winner.coefficients
    spread = f" ± {best.sd:.1%}" if best.sd is not None else ""
    emit(f"winner    α {c.alpha:g}, β {c.beta:g}, γ {c.gamma:g}: {best.mean:.1%}{spread} in {best.n} seeds")
    emit(f"cost      {found.winner.ratio:.3g} times the baseline's multiply-adds: {amount_text(found.winner.cost.macs)}")
    if not found.learned:
        emit("sure?     no: it is no better than guessing, so the training taught nothing; give it more --epochs, images or --resolution")
    elif best.margin is None:
        emit("sure?     can't be said from one seed each; more --seeds would tell")
    elif found.unsure:
        names = "; ".join(f"{p.coefficients.alpha:g}, {p.coefficients.beta:g}, {p.coefficients.gamma:g}" for p in found.unsure)
        emit(f"sure?     no: can't be told apart from {names}")
    else:
        emit("sure?     every other finalist is worse by more than chance")
    emit(f"report    {result.folder / 'report.html'}")
    say(f"use it: phiscale design BASELINE --phi 1 --coefficients {file}")


def _facts(point: Candidate) -> dict[str, Any]:
    c = point.coefficients
    made = {"alpha": c.alpha, "beta": c.beta, "gamma": c.gamma, "ratio": point.ratio, "macs": point.cost.macs, "params": point.cost.params}
    made |= {"peak_bytes": point.cost.peak_bytes, "resolution": point.design.resolution, "latency": point.latency}
    return made | {"same_network": [list(triple) for triple in point.aliases]}


def _grid(points: Sequence[Candidate]) -> str:
    rows = [
        (
            f"{p.coefficients.alpha:g}",
            f"{p.coefficients.beta:g}",
            f"{p.coefficients.gamma:g}",
            f"{p.ratio:.3f}",
            amount_text(p.cost.macs),
            amount_text(p.cost.params),
            amount_text(p.cost.peak_bytes) + "B",
            str(p.design.resolution),
            str(len(p.aliases)),
        )
        for p in points
    ]
    return table(("α", "β", "γ", "× cost", "MACs", "params", "memory", "px", "points"), rows)


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


class _Live:
    """The runs as they are: a table that redraws itself on a terminal, else a line whenever a run ends."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._live: Any = None
        self._told: set[tuple[str, int]] = set()
        self._begun = time.monotonic()

    def __enter__(self) -> "_Live":
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, runs: "Sequence[Run]") -> None:
        if self._terminal:
            self._draw(runs)
            return
        over = sum(run.over for run in runs)
        for run in runs:
            if run.over and (run.point.key, run.seed) not in self._told:
                self._told.add((run.point.key, run.seed))
                c, end = run.point.coefficients, f"{run.curve[-1][1]:.1%} after {run.curve[-1][0]} epochs" if run.curve else run.why
                say(f"{over}/{len(runs)}  α {c.alpha:g}, β {c.beta:g}, γ {c.gamma:g}, seed {run.seed}: {run.state}, {end}")

    def _draw(self, runs: "Sequence[Run]") -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.table import Table

        count = Counter(run.state for run in runs)
        title = ", ".join(f"{count[state]} {state}" for state in ("running", "waiting", "done", "pruned", "failed") if count[state])
        drawn = Table(title=f"{title} · {_duration(time.monotonic() - self._begun)}", title_justify="left")
        for name in ("α", "β", "γ", "× cost", "seed", "state", "epoch", "top-1"):
            drawn.add_column(name, justify="right" if name != "state" else "left")
        order = {"running": 0, "done": 1, "pruned": 2, "failed": 3, "waiting": 4, "missing": 5}
        for run in sorted(runs, key=lambda run: (order[run.state], -(run.curve[-1][1] if run.curve else 0)))[:SHOWN]:
            c, (epoch, top1) = run.point.coefficients, run.curve[-1] if run.curve else (0, 0.0)
            cells = (f"{c.alpha:g}", f"{c.beta:g}", f"{c.gamma:g}", f"{run.point.ratio:.3f}", str(run.seed), run.state)
            drawn.add_row(*cells, str(epoch or ""), f"{top1:.1%}" if epoch else "")
        if self._live is None:
            self._live = Live(console=Console(file=sys.stderr), transient=True, auto_refresh=False)
            self._live.start()
        self._live.update(drawn, refresh=True)
