"""phiscale design"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from phiscale.architecture import Coefficients, Design, scale
from phiscale.architecture import policy as named_policy
from phiscale.architecture.catalog import rows
from phiscale.architecture.scaling import own_coefficients
from phiscale.atomic import write_text
from phiscale.cli.console import emit, emit_json, say
from phiscale.cli.options import Json, Latency, Macs, Memory, Params, Runtime, Threads
from phiscale.cli.show import described, facts
from phiscale.cost import Budget
from phiscale.errors import ArgumentError
from phiscale.jobs.choose import Scaled, named_design, scale_to


def command(
    baseline: Annotated[
        str, Parameter(help="A published network, a design file (.toml), a run, or block strings (r1_k3_s11_e1_i32_o16_se0.25 …).")
    ],
    /,
    *,
    macs: Macs = None,
    params: Params = None,
    memory: Memory = None,
    latency: Latency = None,
    phi: Annotated[float | None, Parameter(help="The compound coefficient φ, also negative. Default: none.")] = None,
    policy: Annotated[
        str | None, Parameter(help="What φ grows: compound, depth, width, resolution, or fast (mostly width). Default: compound.")
    ] = None,
    coefficients: Annotated[
        str | None,
        Parameter(
            help="α,β,γ, the growth of depth, width, resolution, or the .toml of a search. Default: the design's own, else 1.2,1.1,1.15."
        ),
    ] = None,
    depth: Annotated[float | None, Parameter(help="Factor of depth by hand. Default: φ's.")] = None,
    width: Annotated[float | None, Parameter(help="Factor of width by hand. Default: φ's.")] = None,
    resolution: Annotated[
        str | None, Parameter(help="Factor of resolution by hand, e.g. 1.3; or pixels, e.g. 260px. Default: φ's.")
    ] = None,
    runtime: Runtime = None,
    threads: Threads = None,
    batch: Annotated[int, Parameter(help="Images at a time, of which --latency is the time.")] = 1,
    latency_table: Annotated[
        Path | None, Parameter(help="Take latencies from this table, measured on another device, instead. Default: measure here.")
    ] = None,
    plot: Annotated[Path | None, Parameter(help="Draw the family, the budget and the design on this .html page. Default: none.")] = None,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"), help="Write the design to this .toml file. Default: none.")] = None,
    as_json: Json = False,
) -> None:
    """Scale a network by hand, by φ, or to the largest φ inside a budget.

    Factors beside a budget stay as given, and φ decides the others. With no option at all the baseline itself comes out, ready to
    be edited by hand.
    """
    start, how = named_design(baseline), _how(policy, coefficients)
    given = {"macs": macs, "params": params, "memory": memory, "latency": latency}
    budget = Budget.parse(**given)
    factor, pixels = _resolution(resolution)
    fixed = depth is not None or width is not None or resolution is not None
    scaled = Scaled(design=start)
    if plot is not None and fixed:
        raise ArgumentError("--plot draws the family of φ alone; leave out --depth, --width and --resolution")
    if latency is None and (runtime is not None or threads is not None or batch != 1 or latency_table is not None):
        raise ArgumentError("--runtime, --threads, --batch and --latency-table say how --latency is measured; give a --latency")
    if budget:
        if phi is not None:
            raise ArgumentError("a budget decides φ itself; leave out --phi, or leave out the budget")
        scaled = scale_to(
            start, budget, coefficients=how, depth=depth, width=width, resolution=pixels / start.resolution if pixels else factor,
            runtime=runtime, threads=threads, batch=batch, table=latency_table,
        )  # fmt: skip
    elif phi is not None or fixed:
        made = scale(start, phi=phi, coefficients=how, depth=depth, width=width, resolution=factor)
        scaled = Scaled(design=made.at(pixels) if pixels else made)
    elif how is not None:
        raise ArgumentError("--policy and --coefficients need a φ: give --phi, or a budget to find it by")
    made = scaled.design
    if output is not None:
        write_text(output, made.to_toml())
        say(f"written: {output}; train it with: phiscale fit IMAGES --network {output}")
    if plot is not None:
        say(f"written: {_plot(plot, start, scaled, budget, how)}")
    if as_json:
        emit_json(facts(made) | {"fit": scaled.fit.to_dict() if scaled.fit else None, "latency_ms": scaled.latency_ms})
        return
    emit(described(made, given))
    if scaled.fit is not None:
        breaks = (
            "a larger design can't be measured here" if scaled.fit.binds[0].startswith("memory of") else "the next larger design breaks it"
        )
        emit(f"binds        {' and '.join(scaled.fit.binds)}: {breaks}")
    if scaled.latency_ms is not None:
        used = scaled.fit.shares["latency"] if scaled.fit is not None else 0.0
        how_known = f"between the rows of {scaled.table}" if scaled.table else f"median; the last of {len(scaled.tried)} measurements"
        emit(f"latency      {scaled.latency_ms:.3g} ms ({used:.1%} of the limit; {how_known})")


def _plot(path: Path, start: Design, scaled: Scaled, budget: Budget, how: Coefficients | None) -> Path:
    from phiscale.report.family import write_family  # brings the page's templates

    used = how or own_coefficients(start)
    mine = rows().get(start.origin.baseline)
    # where resolution doesn't grow with phi, a published size has no place on its axis
    others = [r for r in rows().values() if mine is not None and r.family == mine.family and used.gamma > 1]
    return write_family(
        path,
        baseline=start,
        chosen=scaled.design,
        budget=budget,
        coefficients=used,
        published=[(r.name, r.design) for r in others],
        measured=[(made.origin.phi, ms) for made, ms in scaled.tried if made.origin.phi is not None],
    )


def _how(policy: str | None, coefficients: str | None) -> Coefficients | None:
    if policy is not None and coefficients is not None:
        raise ArgumentError("--policy names its own coefficients; leave out one of --policy and --coefficients")
    if policy is not None:
        return named_policy(policy)
    return Coefficients.parse(coefficients) if coefficients is not None else None


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
