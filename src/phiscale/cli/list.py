"""phiscale list"""

from dataclasses import asdict
from fnmatch import fnmatchcase
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
    weights: Annotated[bool, Parameter(negative="", help="The published weights instead: for --weights of fit.")] = False,
    as_json: Json = False,
) -> None:
    """The published networks: params, MACs, resolution and published ImageNet accuracy; or their weights."""
    if weights:
        return list_weights(pattern, as_json=as_json)
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
        return None
    rows = (
        (r.name, amount_text(c.params), amount_text(c.macs), str(r.design.resolution), "–" if r.top1 is None else f"{r.top1:g}")
        for r, c in found
    )
    emit(table(("network", "params", "MACs", "px", "top-1 %"), rows))
    return None


def list_weights(pattern: str, *, as_json: bool) -> None:
    """The published weights of matching networks, or with matching names; the best of each network first."""
    from phiscale.weights.sources import at_hand, records  # torch: only where it is asked for

    wanted = pattern.lower() if any(c in pattern for c in "*?[") else f"*{pattern.lower()}*"
    found = [record for record in records() if fnmatchcase(record.name.lower(), wanted) or fnmatchcase(record.network, wanted)]
    if not found:
        raise UnknownNetworkError(f"no published weights match {pattern!r}; `phiscale list --weights` shows all")
    found.sort(key=lambda record: (record.network or "~", -(record.top1 or 0)))
    if as_json:
        emit_json([{**asdict(record), "at_hand": at_hand(record) is not None} for record in found])
        return
    rows = (
        (
            record.name,
            record.network or "–",
            "–" if record.top1 is None else f"{record.top1:g}",
            str(record.preprocess.crop),
            record.training_data,
            record.licence,
            "yes" if at_hand(record) else "–",
        )
        for record in found
    )
    emit(table(("weights", "network", "top-1 %", "px", "trained on", "licence", "on this machine"), rows))
