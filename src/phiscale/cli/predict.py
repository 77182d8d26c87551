"""phiscale predict"""

import csv
import glob
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from phiscale.cli.console import STDIN, emit, json_text, say
from phiscale.cli.options import Json, Runtime, Threads
from phiscale.errors import ArgumentError, ImageError
from phiscale.runtime.engines import Engine, quickest
from phiscale.runtime.image import printable
from phiscale.runtime.predictor import Prediction, load

FEW = 32  # images, which the runtime that starts first is sooner done with than the fastest


def command(
    model: Annotated[str, Parameter(help="A run or a bundle.")],
    files: Annotated[
        tuple[str, ...],
        Parameter(help="Image files, folders (all images in them), patterns such as 'new/*.jpg', or - for names on standard input."),
    ],
    /,
    *,
    top: Annotated[int, Parameter(help="How many labels an image.")] = 5,
    threshold: Annotated[
        float | None, Parameter(help="Of a multi-label network: the probability from which on a label is said. Default: its own.")
    ] = None,
    as_json: Json = False,
    as_csv: Annotated[bool, Parameter(name="--csv", help="Print CSV: path,rank,label,probability,error.")] = False,
    runtime: Runtime = None,
    threads: Threads = None,
    precision: Annotated[
        Literal["f32", "auto", "bf16", "int8"],
        Parameter(
            help="f32 gives PyTorch's answers, auto is the runtime's fastest: bf16 where the processor has it; "
            "int8 is for bundles that were exported with --int8."
        ),
    ] = "f32",
) -> None:
    """Labels and probabilities of image files, without PyTorch.

    Files stream, so any number needs little memory. What can't be read is said and stops nothing. Up to 32 files that are named are
    answered by ONNX Runtime, which starts first, unless --runtime or --precision ask for something else.
    """
    if as_json and as_csv:
        raise ArgumentError("--json and --csv are two formats; give one")
    if runtime is None and precision == "f32" and _few(files):
        runtime = quickest()
    predictor = load(model, runtime=runtime, threads=threads, precision=precision)
    engine = predictor.engine
    say(f"{predictor.design.name}, {predictor.design.resolution} px, by {engine.name} ({engine.precision}, {engine.threads} threads)")
    counted = _Counted(predictor.stream(expanded(files), top=top, threshold=threshold))
    if as_json:
        _print_json(counted, engine)
    elif as_csv:
        _print_csv(counted)
    else:
        _print_text(counted)
    if counted.failed:
        say(f"{counted.failed} of {counted.all} files could not be read")
    if counted.failed == counted.all:
        raise ImageError("unreadable", "no file could be read" if counted.all else "there were no files")


def _few(files: Sequence[str]) -> bool:
    """Whether these are certainly few images: named one by one."""
    return len(files) <= FEW and not any(file == STDIN or glob.has_magic(file) or os.path.isdir(file) for file in files)


def expanded(arguments: Sequence[str]) -> Iterator[str]:
    """Files as they are named; folders and patterns by the images in them; `-` by the lines of standard input."""
    for argument in arguments:
        if argument == STDIN:
            if isinstance(sys.stdin, io.TextIOWrapper):
                sys.stdin.reconfigure(errors="surrogateescape")
            yield from (name for line in sys.stdin if (name := line.rstrip("\r\n")))
        elif os.path.isdir(argument):
            from phiscale.data.find import image_files

            found = image_files(argument)
            if not found:
                raise ArgumentError(f"no image files in {argument}")
            yield from map(str, found)
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            matches = sorted(glob.glob(argument, recursive=True))
            if not matches:
                raise ArgumentError(f"no file matches {argument!r}")
            yield from matches
        else:
            yield argument


class _Counted:
    """The predictions, counted as they pass."""

    def __init__(self, predictions: Iterable[Prediction]) -> None:
        self._predictions, self.all, self.failed = predictions, 0, 0

    def __iter__(self) -> Iterator[Prediction]:
        for prediction in self._predictions:
            self.all += 1
            self.failed += prediction.error is not None
            yield prediction


def _row(prediction: Prediction, engine: Engine) -> dict[str, Any]:
    row: dict[str, Any] = {
        "path": prediction.path,
        "top": [[label, round(p, 6)] for label, p in prediction.top],
        "runtime": engine.name,
        "precision": engine.precision,
    }
    if prediction.labels is not None:
        row["labels"] = list(prediction.labels)
    return row if prediction.error is None else row | {"error": prediction.error, "message": prediction.message}


def _print_json(predictions: Iterable[Prediction], engine: Engine) -> None:
    """One list, printed as it grows."""
    start = "["
    for prediction in predictions:
        emit(start + json_text(_row(prediction, engine)))
        start = ","
    emit("]" if start == "," else "[]")


def _print_csv(predictions: Iterable[Prediction]) -> None:
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(("path", "rank", "label", "probability", "error"))
    for prediction in predictions:
        for rank, (label, probability) in enumerate(prediction.top, 1):
            out.writerow((prediction.path, rank, label, f"{probability:.6f}", ""))
        if prediction.error is not None:
            out.writerow((prediction.path, "", "", "", prediction.error))


def _print_text(predictions: Iterable[Prediction]) -> None:
    for prediction in predictions:
        if prediction.error is not None:
            say(f"{prediction.error}: {printable(prediction.message or prediction.path)}")
        else:
            labels = ", ".join(f"{printable(label)} {probability:.1%}" for label, probability in prediction.top)
            said = "" if prediction.labels is None else f"{', '.join(map(printable, prediction.labels)) or 'none'} ("
            emit(f"{printable(prediction.path)}: {said}{labels}{')' if said else ''}")
