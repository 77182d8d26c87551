"""phiscale's own names: `layout(spec)`."""

from phiscale.architecture import NetworkSpec
from phiscale.architecture.layout import layout
from phiscale.weights.dialects.dialect import Dialect, numerics_of


def modules(spec: NetworkSpec) -> dict[str, str]:
    return {module: module for module in (*(key.rpartition(".")[0] for key in layout(spec)), "classifier")}


DIALECT = Dialect(
    name="phiscale",
    mark=lambda keys: "stem.0.conv.weight" in keys and any(key.startswith("stages.0.0.") for key in keys),
    modules=modules,
    numerics=numerics_of,  # nobody else writes these names: a bare state_dict is of the network that it fits
    writes=True,
)
