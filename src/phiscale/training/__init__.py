"""Floor 3 · train a network.

Comes in: a module, images, a Recipe, a seed.  Goes out: the best weights, metrics.csv and checkpoints in a run folder.
Never: chooses a design, writes a report, prints.
Start reading: recipe.py and recipes.py (what is learned how), compute.py (how it is computed), then loop.py from `train` down.
"""

from phiscale.training.compute import Compute
from phiscale.training.loop import Outcome, Progress, Scores, evaluate, train
from phiscale.training.recipe import Recipe
from phiscale.training.recipes import RECIPES

__all__ = ["RECIPES", "Compute", "Outcome", "Progress", "Recipe", "Scores", "evaluate", "train"]
