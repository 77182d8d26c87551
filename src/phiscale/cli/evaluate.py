"""phiscale evaluate"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from phiscale.cli.console import Steps, emit, emit_json, say, table
from phiscale.cli.options import Json, Runtime

MOST_CLASSES, MOST_CONFUSIONS = 50, 10  # that are printed for people; --json has all


def command(
    model: Annotated[str, Parameter(help="A run (computed by PyTorch) or a bundle (computed by its runtime).")],
    images: Annotated[str, Parameter(help="Labelled images, in any form that `fit` takes.")],
    /,
    *,
    split: Annotated[str | None, Parameter(help="train, val or test, where there are. Default: test, else val, else train.")] = None,
    resolution: Annotated[int | None, Parameter(help="Pixels of the network's input, of a run. Default: the design's.")] = None,
    runtime: Runtime = None,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"), help="Write every prediction to this CSV. Default: none.")] = None,
    as_json: Json = False,
) -> None:
    """Accuracy on labelled images, per class, with calibration and confusions; the same numbers as in training."""
    from phiscale.jobs.evaluate import evaluate
    from phiscale.jobs.run import write_predictions
    from phiscale.runtime.image import printable

    with Steps() as steps:
        found = evaluate(model, images, split=split, resolution=resolution, runtime=runtime, watch=steps)
    if output is not None:
        write_predictions(output, [(found.split, found.files, found.scores)], found.labels)
        say(f"written: {output}")
    said = found.to_dict()
    if as_json:
        emit_json(said)
        return
    emit(f"top-1     {said['top1']:.2%} of {said['n']} images ({said['split']}, by {said['runtime']})")
    emit(f"top-5     {said['top5']:.2%}")
    emit(f"loss      {said['loss']:.4f}")
    emit(f"calibration error  {said['ece']:.2%}")
    if said["skipped"]:
        emit(f"skipped   {said['skipped']} files")
        for skip in found.skipped[:5]:
            say(f"  {skip.code}: {printable(skip.message)}")
    classes = list(said["classes"].items())
    rows = [(printable(name), str(of["n"]), _share(of["recall"]), _share(of["precision"])) for name, of in classes[:MOST_CLASSES]]
    emit("\n" + table(("class", "n", "recall %", "precision %"), rows))
    if len(classes) > MOST_CLASSES:
        emit(f"… and {len(classes) - MOST_CLASSES} more; --json has all")
    if said["confusions"]:
        wrong = [(printable(pair["label"]), printable(pair["predicted"]), str(pair["n"])) for pair in said["confusions"][:MOST_CONFUSIONS]]
        emit("\n" + table(("taken for another", "namely", "times"), wrong))


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
