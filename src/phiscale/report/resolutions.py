"""A figure of one network evaluated at several input sizes: accuracy over pixels (the FixRes effect, arXiv 1906.06423)."""

from collections.abc import Sequence

from phiscale.report.chart import Axis, Line, around, chart, side_by_side
from phiscale.report.page import render


def resolutions_svg(points: Sequence[tuple[int, float]], *, own: int, what: str) -> str:
    """(pixels, fraction) as a file of its own; `own` is the size that the network is used at, `what` the fraction's name."""
    shown = sorted((float(pixels), 100 * share) for pixels, share in points)
    sizes, shares = zip(*shown, strict=True)
    x, y = around(sizes), around(shares, least=0)
    best = max(shown, key=lambda point: point[1])
    ends = f"{shares[0]:.3g}% at {sizes[0]:g} px to {shares[-1]:.3g}% at {sizes[-1]:g}"
    about = f"{what} goes from {ends}; the best is {best[1]:.3g}% at {best[0]:g}"
    at_own = next((point for point in shown if point[0] == own), None)
    figure = chart(
        "resolutions",
        title=f"{what} by resolution",
        about=about,
        x=Axis(label="pixels", low=x[0], high=x[1], whole=True),
        y=Axis(label=what, low=y[0], high=min(100.0, y[1]), form="{:.4g}%".format),
        lines=[Line(label="", points=shown, tone="a")],
        mark=(at_own, f"its own: {own} px") if at_own else None,
    )
    return side_by_side([(f"{what} by resolution; its own is {own} px", figure)], style=render("style.css"))
