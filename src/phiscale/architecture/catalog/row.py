"""One line of the catalog."""

from dataclasses import dataclass

from phiscale.architecture.design import Design
from phiscale.architecture.preprocess import Preprocess


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A published network with what its authors used and reported.

    params      the published count, an integer that a test holds the spec to
    top1        ImageNet-1k percent, as `source` reports it; None: none that could be checked (EfficientNet-X, -H)
    train_resolution   where the authors trained smaller than they tested; else the design's
    timm        timm's name, where it is another
    dropout, drop_path, bn_momentum   recipe defaults; bn_momentum in torch's sense (1 - TF's decay)
    """

    name: str
    family: str
    design: Design
    params: int
    top1: float | None
    source: str
    preprocess: Preprocess
    train_resolution: int | None = None
    timm: str = ""
    dropout: float = 0.2
    drop_path: float = 0.2
    bn_momentum: float = 0.01
