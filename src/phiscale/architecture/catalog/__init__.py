"""The published networks, one file a paper; a row = design + recipe defaults + published figures + source.

Comes in: a name or pattern.  Goes out: Row, Design.  Never: builds a module or loads a weight.
Start reading: efficientnet.py; `rows()` below joins the files. To add a network, add its row there (CONTRIBUTING.md).
"""

from collections.abc import Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from types import MappingProxyType

from phiscale.architecture.block_strings import is_block_strings, read
from phiscale.architecture.catalog import (
    efficientnet,
    efficientnet_condconv,
    efficientnet_edgetpu,
    efficientnet_pruned,
    efficientnet_v2,
    efficientnet_x,
    mnasnet,
    mobilenet_v1,
    mobilenet_v2,
    resnet,
)
from phiscale.architecture.catalog.row import Row
from phiscale.architecture.design import Design
from phiscale.errors import UnknownNetworkError

BLOCK_STRINGS_AT = 224  # pixels: they don't say, and EfficientNet's are of B0

__all__ = ["Row", "design", "list_networks", "row", "rows"]


PAPERS = (
    efficientnet,
    efficientnet_edgetpu,
    efficientnet_condconv,
    efficientnet_v2,
    efficientnet_x,
    efficientnet_pruned,
    mobilenet_v1,
    mobilenet_v2,
    mnasnet,
    resnet,
)


@cache
def rows() -> Mapping[str, Row]:
    """All published networks by name: EfficientNets first, then the networks that their paper compares itself with."""
    return MappingProxyType({row.name: row for paper in PAPERS for row in paper.ROWS})


def list_networks(pattern: str = "*") -> list[str]:
    """Names that match a shell pattern; a word without `*` matches anywhere.

    >>> list_networks("efficientnet_b?")[:2]
    ['efficientnet_b0', 'efficientnet_b1']
    """
    pattern = pattern.lower()
    pattern = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    return [name for name in rows() if fnmatchcase(name, pattern)]


def row(name: str) -> Row:
    """The row of a published network. UnknownNetworkError carries the nearest names, and says where it is another project's.

    Case, `_`, `-` and the lack of them make no difference.

    >>> row("EfficientNetB0").name, row("efficientnet_v2_s").name
    ('efficientnet_b0', 'efficientnetv2_s')
    """
    squashed = {_squashed(known): each for known, each in rows().items()}
    wanted = _squashed(name)
    if wanted in squashed:
        return squashed[wanted]
    theirs = _squashed(name.partition(".")[0]).removeprefix("tf")  # timm: tf_ are TF's numerics, and after a point are the weights
    found = {_squashed(each.timm): each for each in rows().values() if each.timm}.get(theirs) or squashed.get(theirs)
    if found:
        hint = f"as timm's it is {found.name} here, and its weights are shown by: phiscale list --weights {found.name}"
        raise UnknownNetworkError(f"no network {name!r}; {hint}")
    near = get_close_matches(name.lower().replace("-", "_"), rows(), 3, 0.75)
    hint = f"did you mean {', '.join(near)}?" if near else "`phiscale list` shows all"
    raise UnknownNetworkError(f"no network {name!r}; {hint}; to make one: phiscale design efficientnet_b0 --phi 8 (or give a .toml file)")


def _squashed(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def design(name: str) -> Design:
    """The design of a published network, at its published resolution; or, at 224 pixels, of the reference's block strings.

    >>> design("efficientnet_b1").resolution
    240
    >>> len(design("r1_k3_s11_e1_i32_o16_se0.25 r2_k3_s22_e6_i16_o24_se0.25").spec.stages)
    2
    """
    return Design(spec=read(name), resolution=BLOCK_STRINGS_AT) if is_block_strings(name) else row(name).design
