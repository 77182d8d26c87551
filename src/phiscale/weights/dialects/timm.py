"""timm, and geffnet, whose names are the same. Each network exists twice: as `NAME` with torch's numerics and as `tf_NAME` with TF's.

Source: huggingface/pytorch-image-models timm/models/efficientnet.py and _efficientnet_blocks.py.
"""

from phiscale.architecture import Block, NetworkSpec, blocks
from phiscale.architecture.catalog import row
from phiscale.weights.dialects.dialect import Dialect, names_of
from phiscale.weights.numerics import TF, TORCH, Numerics


def modules(spec: NetworkSpec) -> dict[str, str]:
    """Norms count up in order of execution, so that a block that doesn't expand begins with `conv_dw, bn1`.

    Space to depth is the stem's second convolution to us, the first block's first to timm.
    """
    names = {"stem.0.conv": "conv_stem", "stem.0.bn": "bn1", "stem.1.conv": "blocks.0.0.conv_s2d", "stem.1.bn": "blocks.0.0.bn_s2d"}
    plan = blocks(spec)
    for block, theirs in zip(plan, places(plan), strict=True):
        match block.kind:
            case "mbconv" if block.expands:
                parts = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
            case "mbconv" | "separable":
                parts = {"depthwise": "conv_dw", "project": "conv_pw"}
            case "fused":
                parts = {"expand": "conv_exp", "project": "conv_pwl"} if block.expands else {"project": "conv"}
            case _:
                continue  # ResNets have their own names: resnet.py
        for number, (part, conv) in enumerate(parts.items(), 1):
            names[f"{block.name}.{part}.conv"] = f"{theirs}.{conv}"
            names[f"{block.name}.{part}.bn"] = f"{theirs}.bn{number}"
        names[f"{block.name}.routing"] = f"{theirs}.routing_fn"
        names[f"{block.name}.se.reduce"] = f"{theirs}.se.conv_reduce"
        names[f"{block.name}.se.expand"] = f"{theirs}.se.conv_expand"
    return names | {"head.conv": "conv_head", "head.bn": "bn2", "classifier": "classifier"}


def places(plan: tuple[Block, ...]) -> list[str]:
    """`blocks.S.B` of each block. Blocks of one width and kernel are one stage to timm, also where their expansion differs.

    A kernel of 2 is that of X's first block, whose stage goes on with 3.
    """
    found: list[str] = []
    stage, position, last = -1, 0, None
    for block in plan:
        same = last is not None and block.stride == 1 and (block.kind, block.w_out) == (last.kind, last.w_out)
        same = same and last is not None and last.kernel in (block.kernel, 2)
        stage, position = (stage, position + 1) if same else (stage + 1, 0)
        found.append(f"blocks.{stage}.{position}")
        last = block
    return found


# timm has these as tf_ models alone, or under a plain name with TF's numerics
ONLY_TF = ("efficientnetv2_b", "efficientnet_b1_pruned", "efficientnet_b2_pruned", "efficientnet_b3_pruned")
# timm has these with torch's numerics alone
ONLY_TORCH = ("efficientnetv2_rw", "efficientnet_test", "efficientnet_x", "efficientnet_h", "mobilenet", "mnasnet")


def numerics(spec: NetworkSpec) -> Numerics | None:
    names = names_of(spec)
    if any(name.startswith(ONLY_TF) for name in names):
        return TF
    return TORCH if any(name.startswith(ONLY_TORCH) for name in names) else None


def could_be(spec: NetworkSpec) -> str:
    ours = next(iter(names_of(spec)), None)
    name = (row(ours).timm or ours) if ours else "model"
    return f"timm's {name} (torch's numerics) or tf_{name} (TF's)"


DIALECT = Dialect(
    name="timm",
    mark=lambda keys: "conv_stem.weight" in keys and any(key.startswith("blocks.0.0.") for key in keys),
    modules=modules,
    numerics=numerics,
    could_be=could_be,
    writes=True,
)
