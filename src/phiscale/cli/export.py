"""phiscale export"""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from phiscale.cli.console import emit, emit_json
from phiscale.cli.options import Json
from phiscale.errors import ArgumentError


def command(
    run: Annotated[Path, Parameter(help="A run folder (or a bundle, for onnx and openvino).")],
    /,
    *,
    to: Annotated[
        Literal["bundle", "onnx", "openvino"],
        Parameter(help="bundle: what `predict` runs. onnx, openvino: its model, with labels and preprocessing inside."),
    ] = "bundle",
    int8: Annotated[
        bool, Parameter(help="In 8 bits (needs --calibrate): a bundle for `predict --precision int8`, openvino for good.")
    ] = False,
    calibrate: Annotated[Path | None, Parameter(help="Images like those to come, a folder, for --int8. Default: none.")] = None,
    output: Annotated[
        Path | None,
        Parameter(name=("--output", "-o"), help="The folder to write: new, or a bundle to replace. Default: RUN/FORMAT."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a run's bundle anew from its weights (model, preprocessing, labels, parity, speed), or its model for other programs."""
    if int8 != (calibrate is not None):
        raise ArgumentError("--int8 and --calibrate IMAGES go together: 8 bits need images to find their ranges")
    from phiscale.jobs.export import export_as

    folder = export_as(run, to, out=output, calibrate=calibrate)
    if as_json:
        emit_json({"to": to, "path": str(folder)})
    else:
        emit(str(folder))
