"""phiscale reproduce"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from phiscale.allocator import keep_freed_memory
from phiscale.cli.console import Steps, emit, emit_json, table
from phiscale.cli.options import Json
from phiscale.cost.budget import amount_text
from phiscale.errors import ArgumentError
from phiscale.jobs.reproduce import reproduce

if TYPE_CHECKING:
    from phiscale.jobs.imagenette import Comparison
    from phiscale.jobs.sweeps import Sweep

FIGURES = ("fig3", "fig4", "fig8")


def command(
    what: Annotated[
        str,
        Parameter(
            help="table1, table2, table3, table7 (computed), table4 (measured here, on one core), fig3, fig4, fig8, "
            "or imagenette (EfficientNet-B0 against ResNets, trained from random weights)."
        ),
    ],
    /,
    *,
    images: Annotated[
        str | None,
        Parameter(
            help="Train the networks of fig3, fig4, fig8, table7 or imagenette on these. "
            "Default: costs and the paper's figures alone; for imagenette, that data set."
        ),
    ] = None,
    baseline: Annotated[str, Parameter(help="What a sweep scales: a published network or a design file.")] = "efficientnet_b0",
    quick: Annotated[bool, Parameter(help="Fewer networks (for imagenette: images), 2 epochs and 1 seed.")] = False,
    epochs: Annotated[int | None, Parameter(help="Of each training. Default: 9, imagenette 5; 2 with --quick.")] = None,
    seeds: Annotated[int | None, Parameter(help="Trainings of each network. Default: 3; 1 with --quick.")] = None,
    resolution: Annotated[
        int | None, Parameter(help="Pixels that the baseline looks at. Default: its own, less for small images; imagenette 128.")
    ] = None,
    output: Annotated[
        Path | None, Parameter(name=("--output", "-o"), help="The folder of what is trained: CSV, SVG, HTML. Default: sweeps/NAME-IMAGES.")
    ] = None,
    as_json: Json = False,
) -> None:
    """A table or figure of the paper beside our own numbers.

    Tables say where the paper's FLOPs can't be had from its own rounding rules. Figures are trained on your images, briefly and all alike;
    the same command goes on where it was stopped. imagenette trains EfficientNet-B0, XResNet-50 and ResNet-50 from random weights by one
    recipe, at equal epochs and in equal time.
    """
    if images is not None or what == "imagenette":
        keep_freed_memory()
    if what == "imagenette":
        from phiscale.jobs.imagenette import compare

        with Steps() as steps:
            compared = compare(images, quick=quick, epochs=epochs, seeds=seeds, resolution=resolution, out=output, watch=steps)
        _tell_compared(compared, as_json=as_json)
        return
    if what in FIGURES or (what == "table7" and images is not None):
        from phiscale.jobs.sweeps import sweep

        with Steps() as steps:
            swept = sweep(
                what, baseline=baseline, images=images, quick=quick, epochs=epochs, seeds=seeds, resolution=resolution, out=output,
                watch=steps,
            )  # fmt: skip
        _tell(swept, as_json=as_json)
        return
    if images is not None:
        raise ArgumentError(f"{what} is computed, not trained; --images go with fig3, fig4, fig8, table7 and imagenette")
    made = reproduce(what)
    if as_json:
        emit_json(made.to_dict())
        return
    emit(made.title)
    emit(
        table([name.replace("_", " ") for name in made.rows[0]], ([_cell(name, value) for name, value in row.items()] for row in made.rows))
    )
    for note in made.notes:
        emit(f"- {note}")


def _tell(swept: "Sweep", *, as_json: bool) -> None:
    if as_json:
        rows = [
            {"scaled_by": p.series, "network": p.network, "macs": p.macs, "params": p.params, "resolution": p.resolution, "top1": p.top1}
            | {"sd": p.sd, "seeds": len(p.scores), "paper_macs": p.paper_macs, "paper_top1": p.paper_top1}
            for p in swept.points
        ]
        emit_json({"title": swept.title, "folder": str(swept.folder) if swept.folder else None, "rows": rows, "notes": list(swept.notes)})
        return
    emit(swept.title)
    names = ("scaled by", "network", "MACs", "x baseline", "params", "px", "top-1", "sd", "paper's MACs", "paper's top-1")
    emit(
        table(
            names,
            [
                (
                    p.series,
                    p.network,
                    amount_text(p.macs),
                    f"{p.ratio:.2f}",
                    amount_text(p.params),
                    str(p.resolution),
                    _share(p.top1),
                    _share(p.sd),
                    amount_text(p.paper_macs) if p.paper_macs else "–",
                    _share(p.paper_top1),
                )
                for p in swept.points
            ],
        )
    )
    for note in swept.notes:
        emit(f"- {note}")
    if swept.folder is not None:
        emit(f"figure    {swept.folder}")


def _tell_compared(compared: "Comparison", *, as_json: bool) -> None:
    leaderboard = [
        {"epochs": epochs, "resolution": pixels, "top1": round(top1 / 100, 4)} for (epochs, pixels), top1 in compared.leaderboard.items()
    ]
    if as_json:
        rows = [
            {"network": row.network, "equal": row.equal, "epochs": row.epochs, "macs": row.macs, "params": row.params}
            | {"step_ms": row.step_ms, "top1": row.top1, "sd": row.sd, "seeds": len(row.scores)}
            for row in compared.rows
        ]
        emit_json({"folder": str(compared.folder), "rows": rows, "leaderboard": leaderboard, "notes": list(compared.notes)})
        return
    names = ("equal", "network", "MACs", "params", "ms a step", "epochs", "top-1", "sd", "seeds")
    emit(
        table(
            names,
            [
                (
                    row.equal,
                    row.network,
                    amount_text(row.macs),
                    amount_text(row.params),
                    f"{row.step_ms:.0f}",
                    str(row.epochs),
                    _share(row.top1),
                    _share(row.sd),
                    str(len(row.scores)),
                )
                for row in compared.rows
            ],
        )
    )
    emit(
        "\nImagenette's leaderboard: "
        + ", ".join(f"{of['epochs']} epochs at {of['resolution']} px {_share(of['top1'])}" for of in leaderboard)
    )
    for note in compared.notes:
        emit(f"- {note}")
    emit(f"table     {compared.folder / 'imagenette.csv'}")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if name.endswith(("macs", "params")):
        return amount_text(value)
    if name.endswith(("ratio", "speedup")):
        return f"{value:.3g}x"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
