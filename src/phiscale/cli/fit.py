"""phiscale fit"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from phiscale.cli.console import Steps, emit, emit_json, say
from phiscale.cli.options import Json, Latency, Macs, Memory, Params, Runtime, Seed
from phiscale.errors import ArgumentError

if TYPE_CHECKING:
    from phiscale.jobs.run import Run

DEFAULTS = {"weights": "auto", "seed": 0, "workers": 0}  # of the options whose default is not None


def command(
    images: Annotated[
        str | None,
        Parameter(help="A folder of class folders; train/ and val/ of them; a CSV of path,label; or `digits`. Default: those of --resume."),
    ] = None,
    /,
    *,
    network: Annotated[
        str | None,
        Parameter(help="A published network or a design file. Default: the best EfficientNet-Lite inside the budget."),
    ] = None,
    macs: Macs = None,
    params: Params = None,
    memory: Memory = None,
    latency: Latency = None,
    runtime: Runtime = None,
    weights: Annotated[
        str, Parameter(help="Where training starts: auto (the best published at hand, carried over to the size), none, or a file.")
    ] = "auto",
    recipe: Annotated[str | None, Parameter(help="finetune or scratch. Default: finetune, or scratch with --weights none.")] = None,
    epochs: Annotated[int | None, Parameter(help="Passes over the training images. Default: the recipe's.")] = None,
    batch: Annotated[int | None, Parameter(help="Images a step. Default: the recipe's.")] = None,
    learning_rate: Annotated[float | None, Parameter(help="Of the classifier at its highest. Default: the recipe's.")] = None,
    resolution: Annotated[
        int | None, Parameter(help="Pixels of the network's input. Default: the design's, less for tiny images or a small budget.")
    ] = None,
    flip: Annotated[
        bool | None, Parameter(negative="--no-flip", help="Whether mirror images train too. Default: yes, but not for digits.")
    ] = None,
    seed: Seed = 0,
    threads: Annotated[int | None, Parameter(help="Processor threads. Default: PyTorch's choice.")] = None,
    workers: Annotated[int, Parameter(help="Processes that read images.")] = 0,
    output: Annotated[
        Path | None, Parameter(name=("--output", "-o"), help="The run folder, new or empty. Default: runs/IMAGES-NETWORK, numbered.")
    ] = None,
    resume: Annotated[Path | None, Parameter(help="Go on with this interrupted run folder. Default: a new run.")] = None,
    as_json: Json = False,
) -> None:
    """Train a classifier on a folder of images, inside a budget.

    Ends with a run folder: weights, report.html, and a bundle that predicts without PyTorch.
    Interrupted runs go on with --resume and end with the same weights.
    """
    asked: dict[str, Any] = {
        "network": network, "macs": macs, "params": params, "memory": memory,
        "latency": latency, "runtime": runtime, "weights": weights, "recipe": recipe, "epochs": epochs,
        "batch": batch, "learning_rate": learning_rate, "resolution": resolution, "flip": flip, "seed": seed, "threads": threads,
        "workers": workers, "out": output,
    }  # fmt: skip
    if (images is None) == (resume is None):
        raise ArgumentError("give a folder of images, or --resume RUN to go on with a run; not both, not neither")
    if resume is not None and (given := [name for name, value in asked.items() if value != DEFAULTS.get(name)]):
        options = ", ".join("-o" if name == "out" else f"--{name.replace('_', '-')}" for name in given)
        raise ArgumentError(f"--resume goes on with what was asked of {resume}; leave out {options}, or start a new run")
    run = _trained(images, resume, asked)
    about, speed = run.about, _speed(run)
    if as_json:
        emit_json(
            {
                "run": str(run.folder),
                "report": str(run.folder / "report.html"),
                "bundle": str(run.bundle),
                "result": about["result"],
                "test": about.get("test"),
                "latency": speed,
            }
        )
        return
    for scores in (about["result"], *([about["test"]] if "test" in about else [])):
        emit(f"accuracy  {scores['top1']:.1%} of {scores['n']} {scores['split']} images" + _top5(scores))
    if speed:
        latency = speed["latency_ms"]["p50"]
        emit(f"latency   {latency:.3g} ms an image ({speed['runtime']}, {speed['precision']}, {speed['threads']} threads)")
    emit(f"report    {run.folder / 'report.html'}")
    emit(f"bundle    {run.bundle}")
    say(f"try it: phiscale predict {run.folder} FILE...")


def _trained(images: str | None, resume: Path | None, asked: dict[str, Any]) -> "Run":
    from phiscale.jobs import fit as job
    from phiscale.kernels import keep_freed_memory

    keep_freed_memory()
    with Steps() as steps:
        try:
            return job.fit(images, **asked, watch=steps) if images is not None else job.resume(resume or Path(), watch=steps)
        except KeyboardInterrupt:
            go_on = f"go on with: phiscale fit --resume {steps.folder}" if steps.folder else "nothing was written"
            raise KeyboardInterrupt(f"interrupted; {go_on}") from None


def _top5(scores: dict[str, Any]) -> str:
    return f", {scores['top5']:.1%} among the best five" if scores["top5"] < 1 else ""


def _speed(run: "Run") -> dict[str, Any] | None:
    """The bundle's measured row for one image, by the runtime that was asked for, else by the default."""
    rows = json.loads((run.bundle / "bench.json").read_text(encoding="utf-8"))["rows"]
    asked = run.about["asked_exactly"].get("runtime")
    return next((row for row in rows if row["batch"] == 1 and asked in (None, row["runtime"])), None)
