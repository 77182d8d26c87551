"""The reference implementation's block strings, both ways: `r1_k3_s11_e1_i32_o16_se0.25`.

r repeats, k kernel, s stride (11, 22; V2: 1, 2), e expansion, i and o channels in and out, se squeeze-excite, c1 fused,
noskip, ccN experts. Source: tensorflow/tpu efficientnet_builder.py and google/automl effnetv2_configs.py, BlockDecoder.
"""

import re
from dataclasses import replace

from phiscale.architecture.check import build
from phiscale.architecture.spec import NetworkSpec, Stage, Stem
from phiscale.errors import SpecError

_OPTION = re.compile(r"(se|cc|[rkseioc])(\d+\.?\d*|\.\d+)")
_START = re.compile(r"[\s'\"\[]*r\d+_[krseioc]")
_KNOWN = "r, k, s, e, i, o, se, c1, ccN, noskip"


def is_block_strings(text: str) -> bool:
    """Whether a baseline's name is none, but begins as a block string does.

    >>> is_block_strings("r1_k3_s11_e1_i32_o16"), is_block_strings("resnet50")
    (True, False)
    """
    return _START.match(text) is not None


def read(text: str, *, stem: int | None = None) -> NetworkSpec:
    """A network from block strings separated by blanks, commas or quotes; its other fields are EfficientNet's, to be replaced.

    `stem` is the stem's width where it is not the first string's i. A stage whose i is not what the stage before gives
    (EfficientNet-EdgeTPU) expands to e times i all the same, in its first block. SpecError names the stage and the option.

    >>> [stage.width for stage in read("r1_k3_s11_e1_i32_o16_se0.25 r2_k3_s22_e6_i16_o24_se0.25").stages]
    [16, 24]
    """
    words = re.split(r"[\s,'\"\[\]]+", text.strip(" \t\n,'\"[]"))
    if not words[0]:
        raise SpecError("no block strings; write for example r1_k3_s11_e1_i32_o16_se0.25 r2_k3_s22_e6_i16_o24_se0.25")
    made: list[Stage] = []
    first = w_in = 0
    for number, word in enumerate(words, 1):
        stage, said_in = _stage(word, f"stage {number}")
        if number == 1:
            first = w_in = stem or said_in
        share = said_in / w_in
        start = replace(stage, depth=1, expand=stage.expand * share, se=min(1.0, stage.se * share)) if share != 1 else stage
        rest = (replace(stage, depth=stage.depth - 1, stride=1),) if share != 1 and stage.depth > 1 else ()
        made += [start, *rest]
        w_in = stage.width
    return NetworkSpec(stages=tuple(made), stem=Stem(widths=(first,)))


def _stage(word: str, where: str) -> tuple[Stage, int]:
    options: dict[str, float] = {}
    skip = True
    for part in word.split("_"):
        if part == "noskip":
            skip = False
            continue
        match = _OPTION.fullmatch(part)
        if not match:
            raise SpecError(f"{where}: {part!r} in {word!r} is no option of a block string; known: {_KNOWN}")
        options[match[1]] = float(match[2])
    if missing := [name for name in "rkseio" if name not in options]:
        raise SpecError(f"{where}: {word!r} has no {missing[0]}; write for example r1_k3_s11_e1_i32_o16_se0.25")
    if odd := [name for name in ("r", "k", "s", "i", "o", "c", "cc") if options.get(name, 0) % 1]:
        raise SpecError(f"{where}: {odd[0]} must be a whole number in {word!r}")
    stride = str(int(options["s"]))
    if len(set(stride)) != 1 or len(stride) > 2:
        raise SpecError(f"{where}: height and width must stride alike, got s{stride}")
    if options.get("c", 0) not in (0, 1):
        raise SpecError(f"{where}: c must be 0 (depthwise) or 1 (fused), got c{options['c']:g}")
    if options["i"] < 1:
        raise SpecError(f"{where}: i must be at least 1 in {word!r}")
    values = {
        "kind": "fused" if options.get("c") else "mbconv",
        "depth": int(options["r"]),
        "width": int(options["o"]),
        "kernel": int(options["k"]),
        "stride": int(stride[0]),
        "expand": options["e"],
        "se": options.get("se", 0.0),
        "skip": skip,
        "experts": int(options.get("cc", 0)),
    }
    return build(Stage, values, where), int(options["i"])


def write(spec: NetworkSpec) -> list[str]:
    """One string a stage; `read` gives the stages back. SpecError names the stage that the form has no word for."""
    made: list[str] = []
    w_in = spec.stem.widths[-1]
    for number, stage in enumerate(spec.stages, 1):
        if stage.kind not in ("mbconv", "fused") or stage.activation is not None or stage.split:
            what = f"an activation of its own ({stage.activation})" if stage.activation is not None else stage.kind
            what = "a fused block in two convolutions at expand 1" if stage.split else what
            raise SpecError(f"stage {number}: block strings have no word for {what}; write a .toml instead")
        parts = [f"r{stage.depth}", f"k{stage.kernel}", f"s{stage.stride}{stage.stride}", f"e{stage.expand!r}".removesuffix(".0")]
        parts += [f"i{w_in}", f"o{stage.width}"]
        parts += [f"se{stage.se!r}"] * (stage.se > 0) + ["c1"] * (stage.kind == "fused")
        parts += [f"cc{stage.experts}"] * (stage.experts > 0) + ["noskip"] * (not stage.skip)
        made.append("_".join(parts))
        w_in = stage.width
    return made
