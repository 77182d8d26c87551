"""phiscale show"""

from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from phiscale.architecture import Design
from phiscale.cli.console import emit_json, emit_table
from phiscale.cli.options import Json, Markdown
from phiscale.cost import Budget
from phiscale.cost.table import layer_table, stage_table, summary
from phiscale.jobs.choose import named_design


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
