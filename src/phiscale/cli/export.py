"""phiscale export"""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from phiscale.cli.console import emit, emit_json
from phiscale.cli.options import Json


def command(
    run: Annotated[Path, Parameter(help="A run folder.")],
    /,
    *,
    to: Annotated[Literal["bundle"], Parameter(help="bundle: what predicts without PyTorch.")] = "bundle",
    output: Annotated[
        Path | None, Parameter(name=("--output", "-o"), help="The folder to write, new, or a bundle to replace. Default: RUN/bundle.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a run's bundle anew from its weights: model, preprocessing, labels, parity with PyTorch, measured speed."""
    from phiscale.jobs.export import export

    folder = export(run, out=output)
    if as_json:
        emit_json({"to": to, "path": str(folder)})
    else:
        emit(str(folder))
