"""phiscale fit"""

import json
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from phiscale.cli.console import Steps, emit, emit_json, say
from phiscale.cli.options import Json, Latency, Macs, Memory, Params, Runtime, Seed
from phiscale.errors import ArgumentError


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
    if (images is None) == (resume is None):
        raise ArgumentError("give a folder of images, or --resume RUN to go on with a run; not both, not neither")
    from phiscale.jobs.fit import fit
    from phiscale.jobs.fit import resume as go_on
    from phiscale.kernels import keep_freed_memory

    keep_freed_memory()
    with Steps() as steps:
        try:
            if resume is not None:
                run = go_on(resume, watch=steps)
            else:
                assert images is not None
                run = fit(
                    images, network=network, macs=macs, params=params, memory=memory, latency=latency, runtime=runtime, weights=weights,
                    recipe=recipe, epochs=epochs, batch=batch, learning_rate=learning_rate, resolution=resolution, flip=flip,
                    seed=seed, threads=threads, workers=workers, out=output, watch=steps,
                )  # fmt: skip
        except KeyboardInterrupt:
            where = steps.folder
            raise KeyboardInterrupt(
                f"interrupted; go on with: phiscale fit --resume {where}" if where else "interrupted; nothing was written"
            ) from None
    about, speed = run.about, _speed(run.bundle)
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


def _top5(scores: dict[str, Any]) -> str:
    return f", {scores['top5']:.1%} among the best five" if scores["top5"] < 1 else ""


def _speed(bundle: Path) -> dict[str, Any] | None:
    """The bundle's measured row that `predict` would run by default, for one image."""
    rows = json.loads((bundle / "bench.json").read_text(encoding="utf-8"))["rows"]
    return next((row for row in rows if row["batch"] == 1), None)
