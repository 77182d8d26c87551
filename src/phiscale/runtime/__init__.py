"""Floor 1 · run a bundle without PyTorch.

Comes in: a bundle and image files.  Goes out: predictions.
Never: imports torch; alters a file; stops at one that can't be read.
Start reading: predictor.py, then image.py (how files become pixels) and engines/ (what computes).
"""

from phiscale.runtime.predictor import Prediction, Predictor, load

__all__ = ["Prediction", "Predictor", "load"]
