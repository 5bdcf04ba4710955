"""What every picture shares: colours, style, an empty figure, and the ways out to a page or a file.

Every figure is 4.4 inches wide, so that it can be read on a phone (360 px) as it is and half as large again on a desk.
Nothing is drawn through pyplot: no global state, no window.

Colours: Okabe and Ito 2008, told apart with any kind of colour vision; ink becomes ``currentColor`` in SVG.
"""

import io
import re
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#14202b"
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
LINES = (VERMILION, BLUE, GREEN, ORANGE, PURPLE, SKY)
SMALL = 8.5  # points: no text is smaller; 9 px on a phone
WIDTH = 4.4  # inches
POINTS = 72 * WIDTH  # width in points: the unit of the tables that are drawn by hand
STYLE: dict[Any, Any] = {  # matplotlib's stubs want literal keys
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}

STYLED = matplotlib.rc_context(STYLE)  # as a decorator: the style holds while the function draws
Curves = Mapping[str, Sequence[Sequence[float]]]
"""What a line is called -> its curves, one per seed, each one loss per optimizer step."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure with what it is called and what it shows, for those who do not see it too.

    Args:
        name: stable, for file names, anchors and trackers.
        caption: how to read it, with seeds and units.
        alt: what it shows, in one or two sentences with the numbers.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure


def svg(figure: Figure, name: str = "picture") -> str:
    """The figure as an ``<svg>`` element for a page: text as text, ink as currentColor, the same bytes every time.

    Args:
        name: keeps the ids of several pictures on one page apart.
    """
    target = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(target, format="svg", metadata=no_metadata)
    element = target.getvalue()[target.getvalue().index("<svg") :]
    element = re.sub(r' (?:width|height)="[\d.]+pt"', "", element, count=2)
    used = set(re.findall(r"#([\w-]+)", element))
    element = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", element)
    return element.replace(INK, "currentColor").strip()


def png(figure: Figure, dots_per_inch: int = 160) -> bytes:
    """The figure as PNG on white."""
    target = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(target, format="png", dpi=dots_per_inch, facecolor="white", metadata={"Software": None})
    return target.getvalue()


def new_figure(
    height: float, rows: int = 1, heights: tuple[float, ...] | None = None, *, constrained: bool = True
) -> tuple[Figure, list[Axes]]:
    """An empty figure of the house width and its axes, from top to bottom."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained" if constrained else None)
    grid = figure.subplots(rows, 1, squeeze=False, height_ratios=heights)
    return figure, list(grid[:, 0])


def short(value: float) -> str:
    """Three figures, without an exponent where four characters are enough."""
    return f"{value:.2f}" if 1 <= abs(value) < 100 else f"{value:.3g}"


def mean(values: Sequence[float]) -> str:
    return short(statistics.fmean(values)) if values else "not run"


def shortened(name: str, head: int = 13, tail: int = 11) -> str:
    """The name with its middle left out, where it is too long: both ends tell modules apart."""
    return name if len(name) <= head + tail + 2 else f"{name[:head]}..{name[-tail:]}"


def wrapped(text: str, width: int = 50) -> str:
    """The text on as many lines as it needs."""
    return textwrap.fill(text, width)
