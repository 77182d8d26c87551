"""Weights for a size that nobody trained, carried over from one that somebody did.

Growing keeps the function: a wider layer's new channels are copies of old ones that nobody reads yet (their readers' weights
are zero), and a new block is its predecessor with the last batch norm's scale at zero, so that it adds nothing (Net2Net,
arXiv 1511.05641; zero scale: 1706.02677). Shrinking keeps the channels and blocks that matter. Both are one rule: every axis of
every tensor is a choice of source channels, the same wherever the same channels are meant (a residual trunk, a depthwise convolution).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, assert_never

import torch
from torch import Tensor

from phiscale.architecture import Block, NetworkSpec, blocks
from phiscale.architecture.layout import layout
from phiscale.errors import WeightsError
from phiscale.nn import Network

Side = Literal["writes", "reads"]
IDEMPOTENT = ("relu", "relu6")  # act(act(x)) is act(x)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """What became of the source's channels and blocks.

    source    name of the weights
    network   the network that they were trained as
    exact     whether the function is kept: same logits at the same resolution
    kept, added, dropped               channels, each counted once however many tensors share it
    blocks_kept, blocks_added, blocks_dropped
    why       what keeps it from being exact; empty where it is
    """

    source: str
    network: str
    exact: bool
    kept: int
    added: int
    dropped: int
    blocks_kept: int
    blocks_added: int
    blocks_dropped: int
    why: tuple[str, ...] = ()

    def __str__(self) -> str:
        blocks = f"{self.blocks_kept} blocks kept" + _count(", {} added", self.blocks_added) + _count(", {} dropped", self.blocks_dropped)
        channels = f"{self.kept:,} channels kept" + _count(", {} added", self.added) + _count(", {} dropped", self.dropped)
        return f"inherited from {self.source}: {blocks}; {channels}; " + (
            "answers as it did" if self.exact else "its answers change: " + "; ".join(self.why[:3])
        )


def _count(form: str, number: int) -> str:
    return form.format(f"{number:,}") if number else ""


def kin(spec: NetworkSpec) -> NetworkSpec:
    """What stays the same in all sizes of a family: two specs of equal kin can inherit from each other."""
    return replace(
        spec,
        num_classes=0,
        in_channels=3,
        bn_eps=1e-3,
        padding="same",
        stem=replace(spec.stem, widths=(1,) * len(spec.stem.widths)),
        head_width=1 if spec.head_width else 0,
        stages=tuple(replace(stage, depth=1, width=1) for stage in spec.stages),
    )


def fits_inside(small: NetworkSpec, large: NetworkSpec) -> bool:
    """Whether every width and depth of `small` is at most that of `large`: growing from one to the other loses nothing."""
    pairs = [
        *zip(small.stem.widths, large.stem.widths, strict=True),
        (small.head_width, large.head_width),
        *((a.width, b.width) for a, b in zip(small.stages, large.stages, strict=True)),
        *((a.depth, b.depth) for a, b in zip(small.stages, large.stages, strict=True)),
    ]
    return all(a <= b for a, b in pairs)


@torch.no_grad()
def carry_over(
    state: Mapping[str, Tensor], source: NetworkSpec, target: NetworkSpec, *, name: str, network: str
) -> tuple[dict[str, Tensor], Inheritance]:
    """`state` (of `source`, under phiscale's names) as weights of `target`, and what became of it.

    The two differ in widths and depths alone, classes and input channels included; what the source lacks starts at random
    (seed 0). WeightsError where they are not of one family.
    """
    if kin(source) != kin(target) or (source.num_classes, source.in_channels) != (target.num_classes, target.in_channels):
        raise WeightsError(f"{name} is of another family: only widths and depths may differ")
    return _Carrying(state, source, target, name, network).run()


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer with weights, and between which channels it stands. A depthwise one reads nothing but what it writes."""

    name: str
    writes: str
    reads: str | None = None
    normed: bool = True  # `name` is a ConvNorm: `.conv` and `.bn`
    acts: bool = True

    @property
    def weight(self) -> str:
        return f"{self.name}.conv.weight" if self.normed else f"{self.name}.weight"


def _layers(spec: NetworkSpec) -> Iterator[_Layer]:
    """In order of execution. Channels are named after who writes them first."""
    shapes = layout(spec)
    here = "input"
    for key in shapes:
        if key.startswith("stem.") and key.endswith(".conv.weight"):
            stem = key.removesuffix(".conv.weight")
            yield _Layer(stem, stem, here)
            here = stem
    for block in blocks(spec):
        out = here if block.skips and not block.projects else f"{block.name}.out"
        if f"{block.name}.routing.weight" in shapes:
            yield _Layer(f"{block.name}.routing", "experts", here, normed=False)
        yield from _block(block, here, out)
        here = out
    if spec.head_width:
        yield _Layer("head", "head", here)
        here = "head"
    if spec.num_classes:
        yield _Layer("classifier", "classes", here, normed=False)


def _block(block: Block, here: str, out: str) -> Iterator[_Layer]:
    name = block.name
    mid = f"{name}.mid"
    match block.kind:
        case "mbconv":
            mid = mid if block.expands else here
            if block.expands:
                yield _Layer(f"{name}.expand", mid, here)
            yield _Layer(f"{name}.depthwise", mid)
            yield from _squeeze_excite(block, mid)
            yield _Layer(f"{name}.project", out, mid, acts=False)
        case "fused":
            mid = mid if block.expands else here
            if block.expands:
                yield _Layer(f"{name}.expand", mid, here)
            yield from _squeeze_excite(block, mid)
            yield _Layer(f"{name}.project", out, mid, acts=not block.expands)
        case "separable":
            yield _Layer(f"{name}.depthwise", here)
            yield from _squeeze_excite(block, here)
            yield _Layer(f"{name}.project", out, here)
        case "bottleneck":
            yield _Layer(f"{name}.reduce", mid, here)
            yield _Layer(f"{name}.spatial", f"{name}.spatial", mid)
            yield _Layer(f"{name}.expand", out, f"{name}.spatial", acts=False)
            yield from _squeeze_excite(block, out)
            if block.projects:
                yield _Layer(f"{name}.shortcut", out, here, acts=False)
        case _:
            assert_never(block.kind)


def _squeeze_excite(block: Block, width: str) -> Iterator[_Layer]:
    if block.w_se:
        yield _Layer(f"{block.name}.se.reduce", f"{block.name}.se", width, normed=False)
        yield _Layer(f"{block.name}.se.expand", width, f"{block.name}.se", normed=False)


def _axes(weight: Tensor) -> tuple[int, int]:
    """Which axes of a weight are its output and input channels; mixtures of experts have one more before."""
    return (0, 1) if weight.ndim == 2 else (weight.ndim - 4, weight.ndim - 3)


class _Carrying:
    def __init__(self, state: Mapping[str, Tensor], source: NetworkSpec, target: NetworkSpec, name: str, network: str) -> None:
        self.state, self.source, self.target, self.name, self.network = state, source, target, name, network
        self.shapes = layout(target)
        self.why: list[str] = []
        self.origin: dict[str, str | None] = {}  # target's block -> source's block that it is made from
        self.new: list[Block] = []
        self.choices: dict[tuple[str, int], Tensor] = {}
        self.layers = tuple(_layers(target))

    def run(self) -> tuple[dict[str, Tensor], Inheritance]:
        dropped = self.match_blocks()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            own = Network(self.target).state_dict()
        for layer in self.layers:
            self.fill(layer, own)
        for block in self.new:
            self.make_identity(block, own)
        kept = added = gone = 0
        aside = ("input", "classes", "experts", *(f"{block.name}." for block in self.new))
        for (space, before), choice in self.choices.items():
            if space.startswith(aside):
                continue
            kept, added, gone = kept + min(before, len(choice)), added + max(0, len(choice) - before), gone + max(0, before - len(choice))
        if gone:
            self.why.append(f"{gone:,} channels are dropped")
        return own, Inheritance(
            source=self.name,
            network=self.network,
            exact=not self.why,
            kept=kept,
            added=added,
            dropped=gone,
            blocks_kept=len(blocks(self.target)) - len(self.new),
            blocks_added=len(self.new),
            blocks_dropped=dropped,
            why=tuple(self.why),
        )

    # --- which block comes from which ------------------------------------------------------------

    def match_blocks(self) -> int:
        """Fill `origin` and `new`; how many of the source's blocks were dropped."""
        dropped = 0
        for number in range(len(self.target.stages)):
            have = [block for block in blocks(self.source) if block.stage == number]
            wanted = [block for block in blocks(self.target) if block.stage == number]
            kept = self.most_important(have, len(wanted))
            dropped += len(have) - len(kept)
            for block, made_from in zip(wanted, kept, strict=False):
                self.origin[block.name] = made_from.name
                self.compare(made_from, block)
            for block in wanted[len(kept) :]:
                self.new.append(block)
                # the first block of a stage has another input, so it is no model for a later one
                self.origin[block.name] = kept[-1].name if len(kept) > 1 else None
        if dropped:
            self.why.append(f"{dropped} blocks are dropped")
        return dropped

    def most_important(self, have: list[Block], number: int) -> list[Block]:
        """The first block and those that add most variance to the residual trunk; without residuals, the first ones."""
        first, *rest = have
        if len(have) <= number or not all(block.skips for block in rest):
            return have[:number]
        rest.sort(key=lambda block: -self.state[f"{_last(block)}.bn.weight"].square().mean().item())
        return [first, *sorted(rest[: number - 1], key=lambda block: block.position)]

    def compare(self, before: Block, after: Block) -> None:
        for what in ("skips", "projects", "expands"):
            if getattr(before, what) != getattr(after, what):
                now = "" if getattr(after, what) else "no longer "
                self.why.append(f"{after.name} {now}{what}")

    # --- tensors ---------------------------------------------------------------------------------

    def source_name(self, name: str) -> str | None:
        """The source's name of a target's layer."""
        parts = name.split(".")
        if parts[0] != "stages":
            return name
        made_from = self.origin[".".join(parts[:3])]
        return None if made_from is None else ".".join([made_from, *parts[3:]])

    def fill(self, layer: _Layer, own: dict[str, Tensor]) -> None:
        name = self.source_name(layer.name)
        if name is None:
            return
        before = replace(layer, name=name)
        weight = self.state.get(before.weight)
        if weight is None or (weight.ndim > 2 and weight.shape[-2:] != own[layer.weight].shape[-2:]):
            return  # the blocks differ in more than width; `compare` has said so
        out_axis, in_axis = _axes(weight)
        rows = self.choice(layer.writes, weight.shape[out_axis], self.shapes[layer.weight][out_axis])
        made = weight.index_select(out_axis, rows)
        if layer.reads is not None:
            have, want = weight.shape[in_axis], self.shapes[layer.weight][in_axis]
            made = made.index_select(in_axis, self.choice(layer.reads, have, want))
            if want > have:
                made.narrow(in_axis, have, want - have).zero_()  # nobody reads a new channel yet
        own[layer.weight] = made
        if layer.normed:
            for part in ("weight", "bias", "running_mean", "running_var"):
                own[f"{layer.name}.bn.{part}"] = self.state[f"{name}.bn.{part}"].index_select(0, rows)
            own[f"{layer.name}.bn.num_batches_tracked"] = self.state[f"{name}.bn.num_batches_tracked"].clone()
        else:
            own[f"{layer.name}.bias"] = self.state[f"{name}.bias"].index_select(0, rows)

    def choice(self, space: str, have: int, want: int) -> Tensor:
        """Which of `have` source channels each of the `want` target channels is: all and then copies, or the most important."""
        if (space, have) not in self.choices:
            chosen = torch.arange(want) % have
            if want < have:
                chosen = self.importance(space, have).argsort(descending=True, stable=True)[:want].sort().values
            self.choices[space, have] = chosen
        return self.choices[space, have]

    def importance(self, space: str, have: int) -> Tensor:
        """The variance that each channel brings to its readers' outputs, after their batch norms: (have,).

        Its own variance by its writers' batch norms, N(bias, weight^2) after the activation, times its readers' squared weights.
        Constants don't count: the readers' statistics are measured anew and take them up.
        """
        own, read = torch.zeros(have, dtype=torch.float64), torch.zeros(have, dtype=torch.float64)
        for layer in self.layers:
            name = self.source_name(layer.name)
            if name is None or space not in (layer.writes, layer.reads):
                continue
            before = replace(layer, name=name)
            weight = self.state.get(before.weight)
            if weight is None:
                continue
            out_axis, in_axis = _axes(weight)
            if layer.writes == space and layer.normed and weight.shape[out_axis] == have:
                mean, deviation = (self.state[f"{name}.bn.{part}"].double() for part in ("bias", "weight"))
                own += _rectified_variance(mean, deviation.abs()) if layer.acts else deviation.square()
            if layer.reads == space and weight.shape[in_axis] == have:
                gain = torch.ones(weight.shape[out_axis], dtype=torch.float64)
                if layer.normed:
                    gain, variance = (self.state[f"{name}.bn.{part}"].double() for part in ("weight", "running_var"))
                    gain = gain / (variance + self.source.bn_eps).sqrt()
                shape = [1] * weight.ndim
                shape[out_axis] = -1
                read += (weight.double() * gain.reshape(shape)).square().sum([axis for axis in range(weight.ndim) if axis != in_axis])
        return own * read if bool(own.any()) else read

    # --- new blocks ------------------------------------------------------------------------------

    def make_identity(self, block: Block, own: dict[str, Tensor]) -> None:
        last = _last(block)
        idempotent = self.activation(block) in IDEMPOTENT
        if block.skips:
            own[f"{last}.bn.weight"] = torch.zeros_like(own[f"{last}.bn.weight"])
            own[f"{last}.bn.bias"] = torch.zeros_like(own[f"{last}.bn.bias"])
            if block.kind == "bottleneck" and not idempotent:  # the activation comes after the addition
                self.why.append(f"{block.name} is new and its activation is not idempotent")
            return
        one_conv = block.kind == "fused" and not block.expands
        if not idempotent or not (block.kind == "separable" or one_conv):
            self.why.append(f"{block.name} is new and not residual")
            return
        if block.kind == "separable":
            self.pass_through(f"{block.name}.depthwise", own)
        self.pass_through(last, own)
        if block.w_se:
            own[f"{block.name}.se.expand.weight"] = torch.zeros_like(own[f"{block.name}.se.expand.weight"])
            own[f"{block.name}.se.expand.bias"] = torch.full_like(own[f"{block.name}.se.expand.bias"], 32.0)  # an open gate: sigmoid 1

    def activation(self, block: Block) -> str:
        return getattr(block, "activation", self.target.activation)

    def pass_through(self, name: str, own: dict[str, Tensor]) -> None:
        """A convolution and batch norm that change nothing."""
        weight = torch.zeros_like(own[f"{name}.conv.weight"])
        out, w_in, kernel, _ = weight.shape
        for channel in range(out):
            weight[channel, channel % w_in, (kernel - 1) // 2, (kernel - 1) // 2] = 1  # the pixel itself, for even kernels too
        own[f"{name}.conv.weight"] = weight
        ones, zeros = torch.ones(out, dtype=weight.dtype), torch.zeros(out, dtype=weight.dtype)
        own[f"{name}.bn.weight"] = ones * math.sqrt(1 + self.target.bn_eps)
        own[f"{name}.bn.bias"], own[f"{name}.bn.running_mean"], own[f"{name}.bn.running_var"] = zeros.clone(), zeros.clone(), ones.clone()


def _last(block: Block) -> str:
    """The last ConvNorm of a block's branch."""
    return f"{block.name}.expand" if block.kind == "bottleneck" else f"{block.name}.project"


def _rectified_variance(mean: Tensor, deviation: Tensor) -> Tensor:
    """Variance of max(0, N(mean, deviation^2))."""
    deviation = deviation.clamp_min(1e-12)
    ratio = mean / deviation
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    share = torch.special.ndtr(ratio)
    first = mean * share + deviation * density
    second = (mean.square() + deviation.square()) * share + mean * deviation * density
    return (second - first.square()).clamp_min(0)
