"""phiscale: EfficientNets that fit your budget.

What needs torch is imported on first use (PEP 562), so that specs, scaling, cost and bundles work without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from phiscale.version import VERSION

if TYPE_CHECKING:
    from phiscale.architecture import Coefficients, Design, NetworkSpec, Preprocess, scale
    from phiscale.architecture.catalog import design, list_networks
    from phiscale.cost import Budget, Cost
    from phiscale.jobs.choose import fit_budget
    from phiscale.jobs.fit import fit
    from phiscale.jobs.run import Run
    from phiscale.runtime import load
    from phiscale.weights import create_model, load_weights
    from phiscale.weights.models import inherit

__version__ = VERSION

_HOMES = {
    "Budget": "phiscale.cost",
    "Coefficients": "phiscale.architecture",
    "Cost": "phiscale.cost",
    "Design": "phiscale.architecture",
    "NetworkSpec": "phiscale.architecture",
    "Preprocess": "phiscale.architecture",
    "create_model": "phiscale.weights",
    "Run": "phiscale.jobs.run",
    "design": "phiscale.architecture.catalog",
    "fit": "phiscale.jobs.fit",
    "fit_budget": "phiscale.jobs.choose",
    "inherit": "phiscale.weights.models",
    "list_networks": "phiscale.architecture.catalog",
    "load": "phiscale.runtime",
    "load_weights": "phiscale.weights",
    "scale": "phiscale.architecture",
}

__all__ = [
    "Budget",
    "Coefficients",
    "Cost",
    "Design",
    "NetworkSpec",
    "Preprocess",
    "Run",
    "__version__",
    "create_model",
    "design",
    "fit",
    "fit_budget",
    "inherit",
    "list_networks",
    "load",
    "load_weights",
    "scale",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'phiscale' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
