"""How a method looks on the page: its entry's colour, marker and line, in light and in dark."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from prbench import registry
from prbench.results.record_parts import MethodPart

# The page's backgrounds; page.css names the same.
LIGHT, DARK = "#ffffff", "#14171c"
# WCAG 2.2, 1.4.11 asks 3 : 1 of graphics. On white the entries' colours stay as they are in every figure: they are
# told apart by marker and line as well.
CONTRAST = 3.0
DASHES = {"solid": "solid", "dashed": "dash", "dotted": "dot", "dashdot": "dashdot"}
SYMBOLS = {
    "o": "circle", "s": "square", "D": "diamond", "d": "diamond-tall", "^": "triangle-up", "v": "triangle-down",
    "<": "triangle-left", ">": "triangle-right", "P": "cross", "X": "x", "x": "x-thin-open", "+": "cross-thin-open",
    "*": "star", "p": "pentagon", "h": "hexagon", "H": "hexagon2", "8": "octagon",
    "1": "y-down-open", "2": "y-up-open", "3": "y-left-open", "4": "y-right-open",
}  # fmt: skip
_SVG_DASH = {"solid": "", "dash": "6 3", "dot": "1.5 3", "dashdot": "6 3 1.5 3"}
_STROKED = {
    "x": "M12 3 L20 11 M20 3 L12 11",
    "+": "M16 2.5 V11.5 M11.5 7 H20.5",
    "1": "M16 7 V12 M16 7 L11.7 4.5 M16 7 L20.3 4.5",
    "2": "M16 7 V2 M16 7 L11.7 9.5 M16 7 L20.3 9.5",
    "3": "M16 7 H11 M16 7 L18.5 2.7 M16 7 L18.5 11.3",
    "4": "M16 7 H21 M16 7 L13.5 2.7 M16 7 L13.5 11.3",
}


class Marker(NamedTuple):
    """A marker as matplotlib names it, and whether it is drawn without a filling: a tuned row's."""

    shape: str
    hollow: bool = False

    @property
    def face(self) -> bool:
        """Whether there is anything to fill: x, + and the forks 1 to 4 are strokes."""
        return self.shape not in _STROKED


@dataclass(frozen=True)
class Look:
    """Colours for a light and a dark page, Plotly's names of symbol and dash, and the marker as an SVG path."""

    light: str
    dark: str
    symbol: str
    dash: str
    path: str
    stroked: bool
    hollow: bool

    @property
    def svg_dash(self) -> str:
        """The dash as SVG's stroke-dasharray."""
        return _SVG_DASH[self.dash]


def style_of(entry: MethodPart) -> dict[str, str]:
    """The style of the method whose entry the results recorded: the registered entry's, so that a colour can change
    without a new run; the recorded one where no entry of that name is registered.
    """
    registered = entry.name in registry.names("methods")
    return (registry.get("methods", entry.name) if registered else entry).style.model_dump()


def look(style: Mapping[str, str], marker: Marker) -> Look:
    """The look of an entry's style with this marker."""
    return Look(
        light=style["colour"],
        dark=readable(style["colour"], DARK),
        symbol=SYMBOLS.get(marker.shape, "circle"),
        dash=DASHES[style["line"]],
        path=_STROKED.get(marker.shape) or _outline(marker.shape),
        stroked=not marker.face,
        hollow=marker.hollow,
    )


def contrast(a: str, b: str) -> float:
    """The contrast of two colours "#rrggbb", from 1 to 21 (WCAG 2.2, relative luminance)."""
    first, second = sorted((_luminance(a), _luminance(b)))
    return (second + 0.05) / (first + 0.05)


def readable(colour: str, background: str) -> str:
    """A colour of the same hue with enough contrast on a background: greys are mirrored, others are lightened."""
    red, green, blue = _channels(colour)
    hue, lightness, saturation = colorsys.rgb_to_hls(red, green, blue)
    if saturation < 0.05:
        lightness = 1 - 0.9 * lightness
    while contrast(_hex(hue, lightness, saturation), background) < CONTRAST and lightness < 1:
        lightness = min(1.0, lightness + 0.02)
    return _hex(hue, lightness, saturation)


def _channels(colour: str) -> tuple[float, float, float]:
    return int(colour[1:3], 16) / 255, int(colour[3:5], 16) / 255, int(colour[5:7], 16) / 255


def _luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _channels(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _hex(hue: float, lightness: float, saturation: float) -> str:
    return "#" + "".join(f"{round(255 * c):02x}" for c in colorsys.hls_to_rgb(hue, lightness, saturation))


def _outline(marker: str) -> str:
    """A filled marker around (16, 7) as an SVG path."""
    ring = "M16 2.6 a4.4 4.4 0 1 0 0.01 0 Z"
    corners = {"^": (3, -90), "v": (3, 90), "<": (3, 180), ">": (3, 0), "s": (4, 45), "D": (4, 0), "p": (5, -90),
               "h": (6, -90), "H": (6, 0), "8": (8, 22.5)}  # fmt: skip
    if marker in ("P", "X"):
        return _plus(45 if marker == "X" else 0)
    if marker == "d":
        return "M16 2.2 L19 7 L16 11.8 L13 7 Z"
    if marker == "*":
        return _polygon([((5.2, 2.2)[i % 2], -90 + 36 * i) for i in range(10)])
    if marker not in corners:
        return ring
    count, start = corners[marker]
    return _polygon([(5.0, start + 360 * i / count) for i in range(count)])


def _polygon(points: list[tuple[float, float]]) -> str:
    spots = [(16 + r * math.cos(math.radians(a)), 7 + r * math.sin(math.radians(a))) for r, a in points]
    return "M" + " L".join(f"{x:.2f} {y:.2f}" for x, y in spots) + " Z"


def _plus(degrees: float) -> str:
    """A thick plus around (16, 7), turned."""
    arm, half = 4.7, 1.6
    corners = [(-half, -arm), (half, -arm), (half, -half), (arm, -half), (arm, half), (half, half), (half, arm),
               (-half, arm), (-half, half), (-arm, half), (-arm, -half), (-half, -half)]  # fmt: skip
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    spots = [(16 + x * cos - y * sin, 7 + x * sin + y * cos) for x, y in corners]
    return "M" + " L".join(f"{x:.2f} {y:.2f}" for x, y in spots) + " Z"
