"""A page and a figure of a learning-rate range test: the loss over the rate."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from phiscale.atomic import write_text
from phiscale.report.chart import Axis, Line, around, chart, side_by_side
from phiscale.report.page import render

TITLE = "Loss while the learning rate rises"


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A row a step: rate, loss, smoothed loss; what the test suggests, and the recipe's own highest rate."""

    rates: Sequence[float]
    losses: Sequence[float]
    smoothed: Sequence[float]
    suggested: float
    own: float


def write_rates(path: Path, curve: Curve, *, title: str, command: str) -> Path:
    """Write a self-contained HTML page to `path` and return it. RunError where it can't be written."""
    write_text(path, render("rates.html", title=title, command=command, curve=curve, chart=_chart(curve)))
    return path


def rates_svg(curve: Curve) -> str:
    """The figure as a file of its own."""
    caption = f"{TITLE}; suggested {curve.suggested:g}, the recipe's own {curve.own:g}"
    return side_by_side([(caption, _chart(curve))], style=render("style.css"))


def _chart(curve: Curve) -> Markup:
    rates, smoothed = curve.rates, curve.smoothed
    x = around(rates, log=True)
    y = around(smoothed, least=0)
    shown = [min(max(loss, y[0]), y[1]) for loss in curve.losses]
    near = min(range(len(rates)), key=lambda number: abs(rates[number] - curve.suggested))
    return chart(
        "rates",
        title=TITLE,
        about=f"over {len(rates)} steps the smoothed loss goes from {smoothed[0]:.3g} at {rates[0]:.2g} to {min(smoothed):.3g}, its lowest",
        x=Axis(label="learning rate", low=x[0], high=x[1], log=True, form="{:.2g}".format),
        y=Axis(label="loss", low=y[0], high=y[1], form="{:.3g}".format),
        lines=[
            Line(label="", points=list(zip(rates, shown, strict=True)), tone="b", joined=False),
            Line(label="smoothed", points=list(zip(rates, smoothed, strict=True)), tone="a"),
        ],
        mark=((rates[near], smoothed[near]), f"suggested: {curve.suggested:g}"),
    )
