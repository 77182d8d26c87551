"""phiscale evaluate"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from phiscale.cli.console import Steps, emit, emit_json, say, table
from phiscale.cli.options import Json, Runtime
from phiscale.errors import ArgumentError

if TYPE_CHECKING:
    from phiscale.jobs.evaluate import How

MOST_CLASSES, MOST_CONFUSIONS = 50, 10  # that are printed for people; --json has all


def command(
    model: Annotated[str, Parameter(help="A run (computed by PyTorch) or a bundle (computed by its runtime).")],
    images: Annotated[str, Parameter(help="Labelled images, in any form that `fit` takes.")],
    /,
    *,
    split: Annotated[str | None, Parameter(help="train, val or test, where there are. Default: test, else val, else train.")] = None,
    resolution: Annotated[
        str | None,
        Parameter(
            help="Pixels of the network's input, of a run; or several, such as 96,112,128, which are compared with its own: a network that "
            "was trained on random crops often does better at a somewhat larger size. Default: the design's."
        ),
    ] = None,
    chart: Annotated[
        Path | None, Parameter(help="Draw accuracy over the sizes of --resolution into this .svg file. Default: none.")
    ] = None,
    runtime: Runtime = None,
    views: Annotated[
        Literal["flip", "crops", "all"] | None,
        Parameter(
            help="Average the probabilities of several views of each image: flip (and its mirror image), crops (corners and centre), "
            "all (ten). Default: the centre alone."
        ),
    ] = None,
    data_root: Annotated[
        Path | None, Parameter(help="Where data sets by name are. Default: $PHISCALE_DATA, else a folder of phiscale's cache.")
    ] = None,
    threshold: Annotated[
        float | None, Parameter(help="Of a multi-label network: the probability from which on a label is said. Default: its own.")
    ] = None,
    table_file: Annotated[
        Path | None,
        Parameter(
            name="--table", help="Write a row an image, with the probability of every class, to this .csv or .parquet. Default: none."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Accuracy on labelled images, per class, with calibration and confusions; the same numbers as in training."""
    from phiscale.jobs.evaluate import evaluate
    from phiscale.jobs.table import check_table, write_table
    from phiscale.runtime.image import printable

    sides = _sides(resolution)
    if chart is not None and len(sides) < 2:
        raise ArgumentError("--chart draws several sizes: give them, such as --resolution 96,112,128")
    if len(sides) > 1:
        if table_file is not None or runtime is not None:
            raise ArgumentError("several sizes are compared by PyTorch, without a table; leave out --table and --runtime, or give one size")
        with Steps() as steps:
            how: How = {"split": split, "views": views, "threshold": threshold, "data_root": data_root, "watch": steps}
            _compared(model, images, sides, how, chart, as_json=as_json)
        return
    if table_file is not None:
        check_table(table_file)
    with Steps() as steps:
        found = evaluate(
            model, images, split=split, resolution=sides[0] if sides else None, views=views, threshold=threshold, data_root=data_root,
            runtime=runtime, watch=steps,
        )  # fmt: skip
    if table_file is not None:
        write_table(table_file, found)
        say(f"written: {table_file}")
    said = found.to_dict()
    if as_json:
        emit_json(said)
        return
    seen = f", {views} averaged" if views else ""
    emit(f"top-1     {said['top1']:.2%} of {said['n']} images ({said['split']}, {said['resolution']} px{seen}, by {said['runtime']})")
    emit(f"top-5     {said['top5']:.2%}")
    if found.output.multi_label:
        emit(f"mean AP   {said['mean_ap']:.2%}   (average precision, mean over classes)")
        emit(f"F1        {said['micro_f1']:.2%} of all decisions, {said['macro_f1']:.2%} mean over classes, at {said['threshold']:g}")
        emit(f"exact     {said['exact']:.2%} of the images have all their labels and no other")
    emit(f"loss      {said['loss']:.4f}")
    calibration = said["calibration"]
    emit(
        f"calibration error  {said['ece']:.2%} at temperature {calibration['temperature']:.3g}; "
        f"{calibration['ece_at_temperature_1']:.2%} without"
    )
    if said["skipped"]:
        emit(f"skipped   {said['skipped']} files")
        for skip in found.skipped[:5]:
            say(f"  {skip.code}: {printable(skip.message)}")
    classes = list(said["classes"].items())
    names = {"n": "n", "recall": "recall %", "precision": "precision %", "average_precision": "average precision %"}
    shown = [name for name in names if name in classes[0][1]]
    rows = [(printable(name), *(_cell(of[what]) for what in shown)) for name, of in classes[:MOST_CLASSES]]
    emit("\n" + table(("class", *(names[what] for what in shown)), rows))
    if len(classes) > MOST_CLASSES:
        emit(f"… and {len(classes) - MOST_CLASSES} more; --json has all")
    if said["confusions"]:
        wrong = [(printable(pair["label"]), printable(pair["predicted"]), str(pair["n"])) for pair in said["confusions"][:MOST_CONFUSIONS]]
        emit("\n" + table(("taken for another", "namely", "times"), wrong))


def _sides(given: str | None) -> list[int]:
    """The sizes of `--resolution`."""
    try:
        return [int(side.strip().removesuffix("px")) for side in given.split(",")] if given else []
    except ValueError:
        raise ArgumentError(f"--resolution must be pixels, or several with commas between them; got {given!r}") from None


def _compared(model: str, images: str, sides: list[int], how: "How", chart: Path | None, *, as_json: bool) -> None:
    from phiscale.atomic import write_text
    from phiscale.jobs.evaluate import at_resolutions
    from phiscale.report.resolutions import resolutions_svg

    found = at_resolutions(model, images, sides, **how)
    several = found[0].found.output.multi_label
    what = "mean AP" if several else "top-1"
    if chart is not None:
        points = [(one.found.resolution, one.found.scores.merit) for one in found]
        write_text(chart, resolutions_svg(points, own=next(one.found.resolution for one in found if one.own), what=what))
        say(f"written: {chart}")
    rows = [one.to_dict() for one in found]
    if as_json:
        emit_json({"split": found[0].found.split, "resolutions": rows})
        return
    emit(f"on {rows[0]['n']} images ({found[0].found.split})\n")
    shown = {"pixels": "resolution", "M MACs": "macs", f"{what} %": "mean_ap" if several else "top1", "top-5 %": "top5", "loss": "loss"}
    emit(table((*shown, ""), [(*(_size(row, name) for name in shown.values()), "its own" if row["own"] else "") for row in rows]))


def _size(row: dict[str, Any], name: str) -> str:
    value = row[name]
    return f"{value / 1e6:.1f}" if name == "macs" else f"{value:.4f}" if name == "loss" else _cell(value)


def _cell(value: Any) -> str:
    """A count as it is, a share in percent."""
    return "–" if value is None else str(value) if isinstance(value, int) else f"{100 * value:.1f}"
