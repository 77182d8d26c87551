"""Floor 1 · what it costs.

Comes in: a Design, or a spec and an image size.  Goes out: Cost, one Row a layer, Budget and the design that keeps it, tables.
Never: imports torch; measures.
Start reading: count.py (mirrors nn/blocks.py line for line), then memory.py and budget.py.
"""

from phiscale.cost.budget import Budget, BudgetFit, fit_budget, search_budget
from phiscale.cost.count import Cost, LayerCost, cost, layers

__all__ = ["Budget", "BudgetFit", "Cost", "LayerCost", "cost", "fit_budget", "layers", "search_budget"]
