"""What becomes of a network's logits: one class or several, how sure, and from where on a label is said."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from phiscale.architecture.check import build, check, check_bool, check_real
from phiscale.errors import SpecError


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Probabilities are softmax(logits / temperature), or where an image may have several labels (or none) sigmoid of the same.

    multi_label  each class is a yes or no of its own
    temperature  above 1 makes a network less sure, below 1 surer; fitted on validation images (arXiv 1706.04599); changes no top-1
    threshold    of a multi-label network: the probability from which on a label is said
    """

    multi_label: bool = False
    temperature: float = 1.0
    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_bool("output", "multi_label", self.multi_label)
        positive = isinstance(self.temperature, (int, float)) and 0 < self.temperature < float("inf")
        check("output", ok=positive, say=f"temperature must be positive and finite, got {self.temperature!r}")
        check_real("output", "threshold", self.threshold, 0, 1)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> "Output":
        """Read `to_dict`'s form out of a table that may hold more; what is missing has its default. SpecError names what is wrong."""
        if not isinstance(values, Mapping):
            raise SpecError(f"output: expected a table, got {values!r}")
        names = [field.name for field in fields(cls)]
        return build(cls, {name: values[name] for name in names if name in values}, "output")
