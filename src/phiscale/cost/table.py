"""What `list` and `show` print: tables of plain values, and three ways to write one down.

A stage's row carries the size of its *input* as the paper's table 1 does, and the share of the network's multiply-adds.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, assert_never

from phiscale.architecture.catalog import Row
from phiscale.architecture.design import Design
from phiscale.architecture.plan import feature_width, stem
from phiscale.architecture.spec import Stage
from phiscale.cost.budget import amount_text
from phiscale.cost.count import LayerCost, Size, cost, layers

if TYPE_CHECKING:
    from rich.table import Table as RichTable

Value = str | int | float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Columns and rows of plain values; `records` for machines, `markdown` and `rich` for people."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    title: str = ""

    def records(self) -> list[dict[str, Value]]:
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def without(self, column: str) -> "Table":
        """The same table less one column."""
        kept = [number for number, name in enumerate(self.columns) if name != column]
        rows = tuple(tuple(row[number] for number in kept) for row in self.rows)
        return replace(self, columns=tuple(self.columns[number] for number in kept), rows=rows)

    def markdown(self) -> str:
        """A GitHub table; counts shortened (386M)."""
        right = [all(not isinstance(row[n], str) for row in self.rows) for n in range(len(self.columns))]
        lines = [self.columns, tuple("---:" if r else "---" for r in right), *([_text(value) for value in row] for row in self.rows)]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

    def rich(self) -> "RichTable":
        """For a terminal; the one place of this room that needs `rich`."""
        from rich import box
        from rich.table import Table as RichTable

        made = RichTable(title=self.title or None, box=box.SIMPLE_HEAD)
        for number, name in enumerate(self.columns):
            text = any(isinstance(row[number], str) for row in self.rows)
            # a narrow terminal folds all but the names
            made.add_column(name, justify="left" if text else "right", no_wrap=number == 0)
        for row in self.rows:
            made.add_row(*(_text(value) for value in row))
        return made


def _text(value: Value) -> str:
    match value:
        case None:
            return "–"
        case str():
            return value
        case int():
            return amount_text(value) if value >= 10_000 else str(value)
        case float():
            return f"{value:.1%}" if 0 <= value <= 1 else f"{value:.1f}"


def summary(design: Design) -> dict[str, Any]:
    """The object that `show --json` and `design --json` print; depth, width and phi are what the baseline was multiplied by."""
    made, origin = cost(design), design.origin
    return {
        "name": design.name,
        "baseline": origin.baseline,
        "params": made.params,
        "macs": made.macs,
        "activations": made.activations,
        "peak_bytes": made.peak_bytes,
        "resolution": design.resolution,
        "depth": origin.depth,
        "width": origin.width,
        "phi": origin.phi,
    }


def network_table(rows: Iterable[Row], weights: Mapping[str, str]) -> Table:
    """One line a published network; `weights` says of each name which weights there are."""

    def line(row: Row) -> tuple[Value, ...]:
        made = cost(row.design)
        top1 = "none known" if row.top1 is None else f"{row.top1:.1f} %"
        return (row.name, made.params, made.macs, made.peak_bytes, row.design.resolution, top1, weights[row.name], row.source)

    columns = ("network", "params", "MACs", "peak bytes", "px", "top-1", "weights", "source")
    return Table(columns=columns, rows=tuple(line(row) for row in rows))


def stage_table(design: Design) -> Table:
    """The annotated table of stages, like the paper's table 1: what each does, on what, and what it costs."""
    spec = design.spec
    parts: dict[str, list[LayerCost]] = defaultdict(list)
    for layer in layers(spec, design.resolution):
        words = layer.name.split(".")
        parts[".".join(words[:2]) if words[0] == "stages" else words[0]].append(layer)
    total = sum(layer.macs for group in parts.values() for layer in group)
    said: dict[str, tuple[str, int, int]] = {
        "stem": (_stem_operator(design), stem(spec)[-1].w_out, len(stem(spec))),
        **{f"stages.{n}": (operator(stage), stage.width, stage.depth) for n, stage in enumerate(spec.stages)},
        "head": ("Conv1x1", spec.head_width, 1),
        "classifier": ("Pooling & FC", spec.num_classes, 1),
    }
    size, lines = (design.resolution, design.resolution), list[tuple[Value, ...]]()
    for name, group in parts.items():
        what, channels, depth = said[name]
        macs = sum(layer.macs for layer in group)
        lines.append((name, what, _size(size), channels, depth, sum(layer.params for layer in group), macs, macs / total))
        size = _left(name, group, size, pool=spec.stem.pool)
    if not spec.num_classes:
        lines.append(("pool", "Pooling", _size(size), feature_width(spec), 1, 0, 0, 0.0))
    columns = ("stage", "operator", "resolution", "channels", "layers", "params", "MACs", "share")
    return Table(title=_heading(design), columns=columns, rows=tuple(lines))


def layer_table(design: Design) -> Table:
    """Every convolution and linear layer by module path."""
    rows = tuple(
        (layer.name, layer.kind, layer.w_in, layer.w_out, _size(layer.size), layer.params, layer.macs, layer.activations)
        for layer in layers(design.spec, design.resolution)
    )
    columns = ("layer", "kind", "in", "out", "size", "params", "MACs", "activations")
    return Table(title=_heading(design), columns=columns, rows=rows)


def operator(stage: Stage) -> str:
    """A stage's operator in the paper's words.

    >>> operator(Stage(kind="mbconv", depth=2, width=40, kernel=5, stride=2, expand=6, se=0.25))
    'MBConv6, k5x5, s2, SE'
    """
    match stage.kind:
        case "mbconv":
            name = f"MBConv{stage.expand:g}"
        case "fused":
            name = f"Fused-MBConv{stage.expand:g}"
        case "separable":
            name = "Separable"
        case "bottleneck":
            name = "Bottleneck"
        case _:
            assert_never(stage.kind)
    extras = [f"s{stage.stride}"] * (stage.stride > 1) + ["SE"] * (stage.se > 0) + [f"{stage.experts} experts"] * (stage.experts > 0)
    return ", ".join([name, f"k{stage.kernel}x{stage.kernel}", *extras])


def _stem_operator(design: Design) -> str:
    convs = [f"Conv{conv.kernel}x{conv.kernel}, s{conv.stride}" for conv in stem(design.spec)]
    return " + ".join([*convs, "MaxPool3x3, s2"] if design.spec.stem.pool else convs)


def _left(name: str, group: Sequence[LayerCost], size: Size, *, pool: bool) -> Size:
    """The size of what a part leaves behind."""
    maps = [layer.size for layer in group if layer.size != (1, 1)]
    height, width = maps[-1] if maps else size
    return (-(-height // 2), -(-width // 2)) if name == "stem" and pool else (height, width)


def _size(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _heading(design: Design) -> str:
    made = cost(design)
    return (
        f"{design.name} at {design.resolution} px: {amount_text(made.params)} params, {amount_text(made.macs)} MACs, "
        f"{amount_text(made.peak_bytes)}B peak memory"
    )
