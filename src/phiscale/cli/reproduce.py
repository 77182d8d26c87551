"""phiscale reproduce"""

from typing import Annotated, Any

from cyclopts import Parameter

from phiscale.cli.console import emit, emit_json, table
from phiscale.cli.options import Json
from phiscale.cost.budget import amount_text
from phiscale.jobs.reproduce import reproduce


def command(
    what: Annotated[str, Parameter(help="table1, table2, table3, table7 (computed), or table4 (measured here, on one core).")],
    /,
    *,
    as_json: Json = False,
) -> None:
    """A table of the paper beside our own numbers, and where its FLOPs can't be had from its own rounding rules."""
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


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if name.endswith(("macs", "params")):
        return amount_text(value)
    if name.endswith(("ratio", "speedup")):
        return f"{value:.3g}x"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
