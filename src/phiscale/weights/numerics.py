"""What a network's keys and shapes don't show, and whose habit is which. No torch."""

from dataclasses import dataclass

from phiscale.architecture.spec import Padding


@dataclass(frozen=True, slots=True, kw_only=True)
class Numerics:
    """The facts of a network that its keys and shapes don't show."""

    bn_eps: float
    padding: Padding

    def __str__(self) -> str:
        return f"batch norm epsilon {self.bn_eps:g}, {self.padding} padding"


TF = Numerics(bn_eps=1e-3, padding="same")
TORCH = Numerics(bn_eps=1e-5, padding="symmetric")
TF_PORT = Numerics(bn_eps=1e-3, padding="symmetric")  # torchvision's B5-B7 and V2
