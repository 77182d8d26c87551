"""The state_dict of a spec: key -> shape, without building anything. Checked at load, save, export and bundle."""

from collections.abc import Mapping
from typing import assert_never

from phiscale.architecture.plan import Block, blocks, feature_width, stem
from phiscale.architecture.spec import NetworkSpec

Shape = tuple[int, ...]


def layout(spec: NetworkSpec) -> dict[str, Shape]:
    """Every key of the network's state_dict with its shape, in the module's order."""
    shapes: dict[str, Shape] = {}
    for conv in stem(spec):
        _conv_norm(shapes, conv.name, conv.w_in, conv.w_out, conv.kernel)
    for block in blocks(spec):
        _block(shapes, block)
    if spec.head_width:
        _conv_norm(shapes, "head", spec.stages[-1].width, spec.head_width, 1)
    if spec.num_classes:
        shapes["classifier.weight"] = (spec.num_classes, feature_width(spec))
        shapes["classifier.bias"] = (spec.num_classes,)
    return shapes


def _block(shapes: dict[str, Shape], block: Block) -> None:
    name, k, e = block.name, block.kernel, block.experts
    match block.kind:
        case "mbconv":
            if e:
                shapes[f"{name}.routing.weight"] = (e, block.w_in)
                shapes[f"{name}.routing.bias"] = (e,)
            if block.expands:
                _conv_norm(shapes, f"{name}.expand", block.w_in, block.w_mid, 1, experts=e)
            _conv_norm(shapes, f"{name}.depthwise", block.w_mid, block.w_mid, k, groups=block.w_mid, experts=e)
            _squeeze_excite(shapes, block, block.w_mid)
            _conv_norm(shapes, f"{name}.project", block.w_mid, block.w_out, 1, experts=e)
        case "fused":
            if block.expands:
                _conv_norm(shapes, f"{name}.expand", block.w_in, block.w_mid, k)
            _squeeze_excite(shapes, block, block.w_mid)
            _conv_norm(shapes, f"{name}.project", block.w_mid, block.w_out, 1 if block.expands else k)
        case "separable":
            _conv_norm(shapes, f"{name}.depthwise", block.w_in, block.w_in, k, groups=block.w_in)
            _squeeze_excite(shapes, block, block.w_in)
            _conv_norm(shapes, f"{name}.project", block.w_in, block.w_out, 1)
        case "bottleneck":
            _conv_norm(shapes, f"{name}.reduce", block.w_in, block.w_mid, 1)
            _conv_norm(shapes, f"{name}.spatial", block.w_mid, block.w_mid, k)
            _conv_norm(shapes, f"{name}.expand", block.w_mid, block.w_out, 1)
            _squeeze_excite(shapes, block, block.w_out)
            if block.projects:
                _conv_norm(shapes, f"{name}.shortcut", block.w_in, block.w_out, 1)
        case _:
            assert_never(block.kind)


def _conv_norm(shapes: dict[str, Shape], name: str, w_in: int, w_out: int, kernel: int, *, groups: int = 1, experts: int = 0) -> None:
    shape = (w_out, w_in // groups, kernel, kernel)
    shapes[f"{name}.conv.weight"] = (experts, *shape) if experts else shape
    for part in ("weight", "bias", "running_mean", "running_var"):
        shapes[f"{name}.bn.{part}"] = (w_out,)
    shapes[f"{name}.bn.num_batches_tracked"] = ()


def _squeeze_excite(shapes: dict[str, Shape], block: Block, width: int) -> None:
    if block.w_se:
        for part, shape in (("reduce", (block.w_se, width)), ("expand", (width, block.w_se))):
            shapes[f"{block.name}.se.{part}.weight"] = (*shape, 1, 1)
            shapes[f"{block.name}.se.{part}.bias"] = (shape[0],)


def difference(shapes: Mapping[str, Shape], spec: NetworkSpec) -> str:
    """What keeps a state_dict of `shapes` from being this network's, in one line; empty where it is."""
    own = layout(spec)
    missing = [key for key in own if key not in shapes]
    extra = [key for key in shapes if key not in own]
    wrong = [key for key in own if key in shapes and tuple(shapes[key]) != own[key]]
    said: list[str] = []
    if missing:
        said.append(f"{len(missing)} keys are missing, e.g. {missing[0]}")
    if extra:
        said.append(f"{len(extra)} keys have no place, e.g. {extra[0]}")
    if wrong:
        said.append(f"{len(wrong)} shapes differ, e.g. {wrong[0]}: {tuple(shapes[wrong[0]])}, expected {own[wrong[0]]}")
    return "; ".join(said)
