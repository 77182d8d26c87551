"""Floor 3 · the small grid search of the paper's section 3.3: α, β, γ of a baseline, on somebody's own images.

Comes in: a baseline, a grid, limits, an objective (a callable that trains).  Goes out: a study, coefficients, what is known of them.
Never: imports torch or training; prints; runs a point twice that has an answer.
Start reading: space.py, feasible.py (both standard library only), then study.py (who runs what), evidence.py (what may be concluded).
"""

from phiscale.search.feasible import Candidate, feasible
from phiscale.search.space import Grid, Range

__all__ = ["Candidate", "Grid", "Range", "feasible"]
