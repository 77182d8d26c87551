"""phiscale list"""

from typing import Annotated

from cyclopts import Parameter

from phiscale.architecture.catalog import list_networks, row
from phiscale.cli.console import emit, emit_json, table
from phiscale.cli.options import Json
from phiscale.cost import cost
from phiscale.cost.budget import amount_text
from phiscale.errors import UnknownNetworkError


def command(
    pattern: Annotated[str, Parameter(help="Part of a name, or a shell pattern, e.g. lite or 'efficientnet_b?'.")] = "*",
    /,
    *,
    as_json: Json = False,
) -> None:
    """The published networks: params, MACs, resolution and published ImageNet accuracy."""
    names = list_networks(pattern)
    if not names:
        row(pattern)  # says which names are near
        raise UnknownNetworkError(f"no network matches {pattern!r}; `phiscale list` shows all")
    found = [(row(name), cost(row(name).design)) for name in names]
    if as_json:
        emit_json(
            [
                {
                    "name": r.name,
                    "family": r.family,
                    "resolution": r.design.resolution,
                    "params": c.params,
                    "macs": c.macs,
                    "activations": c.activations,
                    "peak_bytes": c.peak_bytes,
                    "top1": r.top1,
                    "source": r.source,
                }
                for r, c in found
            ]
        )
        return
    rows = (
        (r.name, amount_text(c.params), amount_text(c.macs), str(r.design.resolution), "–" if r.top1 is None else f"{r.top1:g}")
        for r, c in found
    )
    emit(table(("network", "params", "MACs", "px", "top-1 %"), rows))
