"""phiscale show"""

from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from phiscale.architecture import Design
from phiscale.cli.console import emit, emit_json, table
from phiscale.cli.options import Json
from phiscale.cost import Budget, LayerCost, layers
from phiscale.cost.budget import amount_text
from phiscale.jobs.choose import named_design


def command(
    network: Annotated[str, Parameter(help="A published network, a design file (.toml) or a run.")],
    /,
    *,
    every_layer: Annotated[bool, Parameter(name="--layers", help="Every layer instead of every stage.")] = False,
    as_json: Json = False,
) -> None:
    """What a network is: each stage with its blocks, sizes and costs; with --layers every convolution and linear layer."""
    design = named_design(network)
    if as_json:
        emit_json(facts(design) | {"layers": [_layer(layer) for layer in layers(design.spec, design.resolution)]})
        return
    emit(described(design, {}))
    if every_layer:
        emit("")
        emit(_layer_table(design))


def facts(design: Design) -> dict[str, Any]:
    """What `show --json` and `design --json` say of a design."""
    cost, origin = design.cost, design.origin
    return {
        "name": design.name,
        "params": cost.params,
        "macs": cost.macs,
        "activations": cost.activations,
        "peak_bytes": cost.peak_bytes,
        "resolution": design.resolution,
        "depth": origin.depth,
        "width": origin.width,
        "phi": origin.phi,
        "coefficients": origin.coefficients,
        "baseline": origin.baseline,
        "budget": origin.budget,
    }


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


def _layer(layer: LayerCost) -> dict[str, Any]:
    return {
        "name": layer.name,
        "kind": layer.kind,
        "w_in": layer.w_in,
        "w_out": layer.w_out,
        "size": list(layer.size),
        "params": layer.params,
        "macs": layer.macs,
        "activations": layer.activations,
    }


def _layer_table(design: Design) -> str:
    header = ("layer", "kind", "in", "out", "size", "params", "MACs")
    return table(
        header,
        (
            (
                layer.name,
                layer.kind,
                str(layer.w_in),
                str(layer.w_out),
                f"{layer.size[0]}x{layer.size[1]}",
                amount_text(layer.params),
                amount_text(layer.macs),
            )
            for layer in layers(design.spec, design.resolution)
        ),
    )
