"""phiscale fit"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter

from phiscale.allocator import keep_freed_memory
from phiscale.cli.console import Steps, emit, emit_json, say
from phiscale.cli.options import Json, Latency, Macs, Memory, Params, Runtime, Seed
from phiscale.errors import ArgumentError
from phiscale.jobs.changes import Changes

if TYPE_CHECKING:
    from phiscale.jobs.run import Run

DEFAULTS = {  # of the options whose default is not None
    "multi_label": False, "seed": 0, "precision": "auto", "accumulate": 1, "compile": False, "channels_last": True, "sync_norms": False,
    "tensorboard": False, "timeout": 1800.0,
}  # fmt: skip
OTHERWISE = Group("Otherwise than the recipe says", help="The default of each is the recipe's: docs/recipes.md.", sort_key=1)
ANY_TIME = ("workers", "timeout")  # change nothing in what comes out, so that --resume takes them too


def command(
    images: Annotated[
        str | None,
        Parameter(
            help="A folder of class folders; train/ and val/ of them; a CSV of path,label; "
            "or a data set by name, such as cifar10 or flowers102. Default: those of --resume."
        ),
    ] = None,
    /,
    *,
    data_root: Annotated[
        Path | None,
        Parameter(help="Where data sets by name are, or are downloaded to. Default: $PHISCALE_DATA, else a folder of phiscale's cache."),
    ] = None,
    multi_label: Annotated[
        bool,
        Parameter(
            help="Images may have several labels or none: IMAGES is a CSV of path,labels (`;` or `|` between labels, or a line each), "
            "or of path and one column a class of 0 and 1."
        ),
    ] = False,
    network: Annotated[
        str | None,
        Parameter(help="A published network, a design file, or block strings. Default: the best EfficientNet-Lite inside the budget."),
    ] = None,
    coefficients: Annotated[
        str | None,
        Parameter(
            help="Grow the network by these α,β,γ, or by the .toml of a search: to the budget, or by φ = 1. Default: the network as it is."
        ),
    ] = None,
    macs: Macs = None,
    params: Params = None,
    memory: Memory = None,
    latency: Latency = None,
    runtime: Runtime = None,
    weights: Annotated[
        str | None,
        Parameter(
            help="Where training starts: auto (the best published at hand, carried over to the size), none, or a file. "
            "Default: auto, or none for recipes that start from random weights."
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        Parameter(
            help="finetune, scratch, paper, v2, ra, noisy_student, advprop, or a .toml file (every run has one). "
            "Default: finetune, or scratch with --weights none."
        ),
    ] = None,
    epochs: Annotated[int | None, Parameter(help="Passes over the training images. Default: the recipe's.")] = None,
    minutes: Annotated[
        float | None,
        Parameter(help="In place of epochs: be done in so many minutes, all included, with the recipe's whole schedule. Default: epochs."),
    ] = None,
    batch: Annotated[int | None, Parameter(help="Images a step, over all processes. Default: the recipe's.")] = None,
    learning_rate: Annotated[float | None, Parameter(help="Of the classifier at its highest. Default: the recipe's.")] = None,
    clip: Annotated[float | None, Parameter(help="Most that the gradients' norm may be; 0: no limit. Default: the recipe's.")] = None,
    patience: Annotated[
        int | None, Parameter(help="Stop after so many epochs without a better one; 0: never. Default: the recipe's.")
    ] = None,
    resolution: Annotated[
        int | None, Parameter(help="Pixels of the network's input. Default: the design's, less for tiny images or a small budget.")
    ] = None,
    flip: Annotated[
        bool | None, Parameter(negative="--no-flip", help="Whether mirror images train too. Default: yes, but not for digits.")
    ] = None,
    unlabelled: Annotated[Path | None, Parameter(help="A folder of images without labels, for noisy_student. Default: none.")] = None,
    teacher: Annotated[
        str | None,
        Parameter(help="Of noisy_student: a finished run, or a network to train first. Default: the network itself."),
    ] = None,
    changes: Annotated[Changes | None, Parameter(name="*", group=OTHERWISE, help="Fields of the recipe. Default: its own.")] = None,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Parameter(help="Of the convolutions; auto: bfloat16 on GPUs that have it, float16 on others, float32 elsewhere."),
    ] = "auto",
    accumulate: Annotated[int, Parameter(help="Compute each step in so many parts: the same step in less memory.")] = 1,
    compile: Annotated[bool, Parameter(help="Use torch.compile.")] = False,  # noqa: A002  # torch's word
    channels_last: Annotated[
        bool, Parameter(negative="--no-channels-last", help="Keep the channels of a pixel together in memory: mostly faster.")
    ] = True,
    sync_norms: Annotated[bool, Parameter(help="Batch norms that learn see the images of all processes.")] = False,
    tensorboard: Annotated[bool, Parameter(help="Log every step to OUTPUT/tensorboard too.")] = False,
    seed: Seed = 0,
    threads: Annotated[int | None, Parameter(help="Processor threads. Default: PyTorch's choice.")] = None,
    workers: Annotated[int | None, Parameter(help="Processes that read images; with --resume too. Default: none, this one reads.")] = None,
    timeout: Annotated[float, Parameter(help="Seconds that the processes of torchrun wait for each other.")] = 1800.0,
    output: Annotated[
        Path | None, Parameter(name=("--output", "-o"), help="The run folder, new or empty. Default: runs/IMAGES-NETWORK, numbered.")
    ] = None,
    resume: Annotated[Path | None, Parameter(help="Go on with this interrupted run folder. Default: a new run.")] = None,
    find_lr: Annotated[
        bool, Parameter(help="Train nothing, but raise the learning rate until the loss runs away, and draw it: rates.html in OUTPUT.")
    ] = False,
    find_batch: Annotated[bool, Parameter(help="Train nothing, but find the largest batch that fits this machine's memory.")] = False,
    as_json: Json = False,
) -> None:
    """Train a classifier on a folder of images, inside a budget.

    Ends with a run folder: weights, report.html, and a bundle that predicts without PyTorch.
    Interrupted runs go on with --resume and end with the same weights.
    """
    asked: dict[str, Any] = {
        "data_root": data_root, "multi_label": multi_label,
        "network": network, "coefficients": coefficients, "macs": macs, "params": params, "memory": memory,
        "latency": latency, "runtime": runtime, "weights": weights, "recipe": recipe, "epochs": epochs,
        "minutes": minutes, "batch": batch, "learning_rate": learning_rate, "clip": clip, "patience": patience, "resolution": resolution,
        "flip": flip, "precision": precision, "accumulate": accumulate, "compile": compile, "channels_last": channels_last,
        "sync_norms": sync_norms, "tensorboard": tensorboard, "seed": seed, "threads": threads, "workers": workers, "timeout": timeout,
        "unlabelled": unlabelled, "teacher": teacher, "out": output, **(changes or {}),
    }  # fmt: skip
    if (images is None) == (resume is None):
        raise ArgumentError("give a folder of images, or --resume RUN to go on with a run; not both, not neither")
    if resume is not None and (given := [name for name, value in asked.items() if name not in ANY_TIME and value != DEFAULTS.get(name)]):
        options = ", ".join("-o" if name == "out" else f"--{name.replace('_', '-')}" for name in given)
        raise ArgumentError(f"--resume goes on with what was asked of {resume}; leave out {options}, or start a new run")
    if find_lr or find_batch:
        if images is None or (find_lr and find_batch):
            raise ArgumentError("--find-lr and --find-batch need a folder of images, and are asked one at a time")
        _tune(images, asked, changes or {}, rates=find_lr, as_json=as_json)
        return
    run = _trained(images, resume, asked)
    if not run.here:  # one of torchrun's others
        return
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
        of = f"{scores['n']} {scores['split']} images"
        if "mean_ap" in scores:
            emit(f"mean AP   {scores['mean_ap']:.1%} on {of}; F1 {scores['micro_f1']:.1%}; all labels right of {scores['exact']:.1%}")
        else:
            emit(f"accuracy  {scores['top1']:.1%} of {of}" + _top5(scores))
    if speed:
        latency = speed["latency_ms"]["p50"]
        emit(f"latency   {latency:.3g} ms an image ({speed['runtime']}, {speed['precision']}, {speed['threads']} threads)")
    emit(f"report    {run.folder / 'report.html'}")
    emit(f"bundle    {run.bundle}")
    say(f"try it: phiscale predict {run.folder} FILE...")


def _tune(images: str, given: dict[str, Any], changes: Any, *, rates: bool, as_json: bool) -> None:
    from phiscale.jobs.asked import Asked
    from phiscale.jobs.tune import find_batch, find_lr

    out = given.pop("out")
    own: dict[str, Any] = {
        name: str(value) if isinstance(value, Path) else value for name, value in given.items() if value is not None and name not in changes
    }
    asked = Asked(images=images, changes=dict(changes), **own)
    with Steps() as steps:
        if rates:
            folder, found = find_lr(asked, out=out, watch=steps)
            page = str(folder / "rates.html")
            said = {"learning_rate": found.suggested, "lowest_loss_at": found.lowest, "steps": len(found.rates), "page": page}
            lines = {"rate": f"{found.suggested:g} (the loss was lowest at {found.lowest:.2g})", "page": page}
        else:
            fits = find_batch(asked, watch=steps)
            sizes = {"estimated_bytes": fits.estimated_bytes, "peak_bytes": fits.measured_bytes, "limit_bytes": fits.limit_bytes}
            said = {"batch": fits.batch, **sizes}
            estimated, peak, limit = (size / 1e9 for size in sizes.values())
            lines = {"batch": f"{fits.batch} ({peak:.2f} GB measured, {estimated:.2f} estimated, of {limit:.2f})"}
    if as_json:
        emit_json(said)
        return
    for name, text in lines.items():
        emit(f"{name:<9} {text}")


def _trained(images: str | None, resume: Path | None, asked: dict[str, Any]) -> "Run":
    from phiscale.jobs import fit as job

    keep_freed_memory()
    with Steps() as steps:
        if images is None:
            return job.resume(resume or Path(), workers=asked["workers"], timeout=asked["timeout"], watch=steps)
        asked["workers"] = asked["workers"] or 0
        return job.fit(images, **asked, watch=steps)


def _top5(scores: dict[str, Any]) -> str:
    return f", {scores['top5']:.1%} among the best five" if scores["top5"] < 1 else ""


def _speed(run: "Run") -> dict[str, Any] | None:
    """The bundle's measured row for one image, by the runtime that was asked for, else by the default."""
    rows = json.loads((run.bundle / "bench.json").read_text(encoding="utf-8"))["rows"]
    asked = run.about["asked"].get("runtime")
    return next((row for row in rows if row["batch"] == 1 and asked in (None, row["runtime"])), None)
