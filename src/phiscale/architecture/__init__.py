"""Floor 0 · what a network is.

Comes in: names, numbers, TOML.  Goes out: NetworkSpec, Design, plan (blocks), layout.
Never: imports anything but the standard library; guesses; trains.
Start reading: spec.py, then plan.py (widths), scaling.py (the paper's rule), catalog/ (the published networks).
"""

from phiscale.architecture.design import Design, Origin
from phiscale.architecture.output import Output
from phiscale.architecture.plan import Block, blocks
from phiscale.architecture.preprocess import Preprocess
from phiscale.architecture.rounding import Rounding, round_depth, round_width
from phiscale.architecture.scaling import POLICIES, Coefficients, policy, scale, scale_spec
from phiscale.architecture.spec import NetworkSpec, Stage, Stem

__all__ = [
    "POLICIES",
    "Block",
    "Coefficients",
    "Design",
    "NetworkSpec",
    "Origin",
    "Output",
    "Preprocess",
    "Rounding",
    "Stage",
    "Stem",
    "blocks",
    "policy",
    "round_depth",
    "round_width",
    "scale",
    "scale_spec",
]
