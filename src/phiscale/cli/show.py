"""phiscale show"""

from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from phiscale.architecture import Design
from phiscale.architecture.catalog import Row, rows
from phiscale.cli.console import emit, emit_json, emit_table
from phiscale.cli.options import Json, Markdown
from phiscale.cost import Budget
from phiscale.cost.table import layer_table, stage_table, summary
from phiscale.jobs.choose import named_design
from phiscale.weights.sources import records


def command(
    network: Annotated[
        str, Parameter(help="A published network, a design file (.toml), a run, or block strings (r1_k3_s11_e1_i32_o16_se0.25 …).")
    ],
    /,
    *,
    layers: Annotated[bool, Parameter(help="Every layer instead of every stage.")] = False,
    as_json: Json = False,
    markdown: Markdown = False,
) -> None:
    """What a network is: each stage with its operator, size and costs; with --layers every convolution and linear layer."""
    design = named_design(network)
    if as_json:
        emit_json(facts(design, layers=layers))
    else:
        emit_table(layer_table(design) if layers else stage_table(design), markdown=markdown)
        row = rows().get(design.name)
        if row and row.design == design and not markdown:
            emit(_published(row))


def _published(row: Row) -> str:
    """What is known of a network beside what it is: its accuracy, its authors' recipe and preprocessing, its weights."""
    image, own = row.preprocess, sorted((r for r in records() if r.network == row.name), key=lambda r: -(r.top1 or 0))
    top1 = "none known" if row.top1 is None else f"{row.top1:g} %"
    trained = f", trained at {row.train_resolution}" if row.train_resolution else ""
    lines = [
        f"top-1        {top1} ({row.source})",
        f"images       {image.crop} px out of {image.resize}, {image.interpolation}, mean {_three(image.mean)}, std {_three(image.std)}"
        + trained,
        f"recipe       dropout {row.dropout:g}, drop path {row.drop_path:g}, batch norm momentum {row.bn_momentum:g}",
        f"weights      {len(own)} published files" + (f", best {own[0].name}; all: phiscale list --weights {row.name}" if own else ""),
    ]
    return "\n".join(lines)


def _three(values: tuple[float, float, float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def facts(design: Design, *, layers: bool = False) -> dict[str, Any]:
    """What `show --json` and `design --json` say of a design."""
    more = {"layers": layer_table(design).records()} if layers else {"stages": stage_table(design).records()}
    return summary(design) | {"coefficients": design.origin.coefficients, "budget": design.origin.budget} | more


def described(design: Design, budget: Mapping[str, str | None]) -> str:
    """A design in a few lines: name, size, costs beside their limits."""
    cost, origin = design.cost, design.origin
    shares = Budget.parse(**budget).shares(cost) if budget else {}

    def amount(name: str, text: str) -> str:
        return f"{text} ({shares[name]:.1%} of the limit)" if name in shares else text

    lines = [f"network      {design.name}", f"resolution   {design.resolution} px"]
    if origin.phi is not None:
        lines.append(f"phi          {origin.phi:.4g}")
    if (origin.depth, origin.width, origin.resolution) != (1, 1, 1):
        lines.append(f"scaled by    depth {origin.depth:.4g}, width {origin.width:.4g}, resolution {origin.resolution:.4g}")
    lines += [
        f"params       {amount('params', f'{cost.params:,}')}",
        f"MACs         {amount('macs', f'{cost.macs:,}')}",
        f"activations  {cost.activations:,}",
        f"peak memory  {amount('memory', f'{cost.peak_bytes / 1e6:.1f} MB')}",
    ]
    return "\n".join(lines)
