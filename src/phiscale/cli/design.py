"""phiscale design"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from phiscale.architecture import Coefficients, scale
from phiscale.atomic import write_text
from phiscale.cli.console import emit, emit_json, say
from phiscale.cli.options import Json, Macs, Memory, Params
from phiscale.cli.show import described, facts
from phiscale.cost import fit_budget
from phiscale.errors import ArgumentError
from phiscale.jobs.choose import named_design


def command(
    baseline: Annotated[str, Parameter(help="A published network, a design file (.toml) or a run.")],
    /,
    *,
    macs: Macs = None,
    params: Params = None,
    memory: Memory = None,
    phi: Annotated[float | None, Parameter(help="The compound coefficient φ, also negative. Default: none.")] = None,
    coefficients: Annotated[str | None, Parameter(help="α,β,γ, the growth of depth, width, resolution. Default: 1.2,1.1,1.15.")] = None,
    depth: Annotated[float | None, Parameter(help="Factor of depth by hand. Default: φ's.")] = None,
    width: Annotated[float | None, Parameter(help="Factor of width by hand. Default: φ's.")] = None,
    resolution: Annotated[
        str | None, Parameter(help="Factor of resolution by hand, e.g. 1.3; or pixels, e.g. 260px. Default: φ's.")
    ] = None,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"), help="Write the design to this .toml file. Default: none.")] = None,
    as_json: Json = False,
) -> None:
    """Scale a network by hand, by φ, or to the largest φ inside a budget.

    With no option at all the baseline itself comes out, ready to be edited by hand.
    """
    start, three = named_design(baseline), _coefficients(coefficients)
    budget = {"macs": macs, "params": params, "memory": memory}
    by_hand = (phi, depth, width, resolution)
    if any(limit is not None for limit in budget.values()):
        if any(factor is not None for factor in by_hand):
            raise ArgumentError("a budget decides φ itself; leave out --phi, --depth, --width and --resolution, or leave out the budget")
        made = fit_budget(start, macs=macs, params=params, memory=memory, coefficients=three)
    elif any(factor is not None for factor in by_hand):
        factor, pixels = _resolution(resolution)
        made = scale(start, phi=phi, coefficients=three, depth=depth, width=width, resolution=factor)
        made = made.at(pixels) if pixels else made
    else:
        if three is not None:
            raise ArgumentError("--coefficients need a φ: give --phi, or a budget to find it by")
        made = start
    if output is not None:
        write_text(output, made.to_toml())
        say(f"written: {output}; train it with: phiscale fit IMAGES --network {output}")
    if as_json:
        emit_json(facts(made))
    else:
        emit(described(made, budget))


def _coefficients(text: str | None) -> Coefficients | None:
    if text is None:
        return None
    try:
        alpha, beta, gamma = (float(part) for part in text.split(","))
    except ValueError:
        raise ArgumentError(f"--coefficients: can't read {text!r}; write three numbers, for example 1.2,1.1,1.15") from None
    return Coefficients(alpha=alpha, beta=beta, gamma=gamma)


def _resolution(text: str | None) -> tuple[float | None, int | None]:
    """(factor, pixels), one of them or neither."""
    if text is None:
        return None, None
    try:
        if text.lower().endswith("px"):
            return None, int(text[:-2])
        factor = float(text)
    except ValueError:
        raise ArgumentError(f"--resolution: can't read {text!r}; write a factor such as 1.3, or pixels such as 260px") from None
    if factor >= 16:
        raise ArgumentError(f"--resolution {text} is a factor, not pixels; did you mean {factor:.0f}px?")
    return factor, None
