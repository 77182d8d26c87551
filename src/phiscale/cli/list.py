"""phiscale list"""

import sys
from dataclasses import asdict
from fnmatch import fnmatchcase
from shutil import get_terminal_size
from typing import Annotated, Any

from cyclopts import Parameter

from phiscale.architecture.catalog import list_networks, row
from phiscale.cli.console import emit, emit_json, emit_table
from phiscale.cli.options import Json, Markdown
from phiscale.cost.table import Table, network_table, summary
from phiscale.errors import UnknownNetworkError
from phiscale.weights.sources import Record, at_hand, records

WIDE = 130  # columns of a terminal, for the source of each figure to stand beside it


def command(
    pattern: Annotated[str, Parameter(help="Part of a name, or a shell pattern, e.g. lite or 'efficientnet_b?'.")] = "*",
    /,
    *,
    weights: Annotated[bool, Parameter(help="The published weights instead: for --weights of fit.")] = False,
    as_json: Json = False,
    markdown: Markdown = False,
) -> None:
    """The published networks: params, MACs, memory, resolution and published ImageNet accuracy; or their weights."""
    if weights:
        found = _weights(pattern)
        if as_json:
            emit_json([{**asdict(record), "at_hand": at_hand(record) is not None} for record in found])
        else:
            emit_table(_weight_table(found), markdown=markdown)
            if not markdown:
                emit(f"{len(found)} files; addresses, checksums and preprocessing: --json; to use one: fit --weights NAME")
        return
    names = list_networks(pattern)
    if not names:
        row(pattern)  # says which names are near
        raise UnknownNetworkError(f"no network matches {pattern!r}; `phiscale list` shows all")
    if as_json:
        emit_json([_network(name) for name in names])
        return
    table = network_table(map(row, names), _counts())
    narrow = sys.stdout.isatty() and not markdown and get_terminal_size().columns < WIDE
    emit_table(table.without("source") if narrow else table, markdown=markdown)
    if not markdown:
        emit(f"{len(names)} networks; their published weights: phiscale list --weights" + (f" {pattern}" if pattern != "*" else ""))


def _counts() -> dict[str, str]:
    """How many published files of each network there are, and how many of them are on this machine."""
    said: dict[str, str] = {}
    for name in list_networks():
        own = [record for record in records() if record.network == name]
        here = sum(at_hand(record) is not None for record in own)
        said[name] = f"{len(own)}, {here} here" if here else str(len(own)) if own else "–"
    return said


def _network(name: str) -> dict[str, Any]:
    published = row(name)
    own = [record.name for record in records() if record.network == name]
    fields = ("family", "top1", "source", "train_resolution", "dropout", "drop_path", "bn_momentum", "timm")
    about = {field: getattr(published, field) for field in fields} | {"preprocess": published.preprocess.to_dict(), "weights": own}
    return summary(published.design) | {"name": name} | about


def _weights(pattern: str) -> list[Record]:
    """The published weights of matching networks, or with matching names; the best of each network first."""
    wanted = pattern.lower() if any(c in pattern for c in "*?[") else f"*{pattern.lower()}*"
    found = [record for record in records() if fnmatchcase(record.name.lower(), wanted) or fnmatchcase(record.network, wanted)]
    if not found:
        raise UnknownNetworkError(f"no published weights match {pattern!r}; `phiscale list --weights` shows all")
    return sorted(found, key=lambda record: (record.network or "~", -(record.top1 or 0)))


def _weight_table(found: list[Record]) -> Table:
    columns = ("weights", "network", "top-1", "px", "trained on", "licence", "on this machine")
    rows = tuple(
        (
            record.name,
            record.network or "–",
            "–" if record.top1 is None else f"{record.top1:g} %",
            record.preprocess.crop,
            record.training_data,
            record.licence,
            "yes" if at_hand(record) else "–",
        )
        for record in found
    )
    return Table(columns=columns, rows=rows)
