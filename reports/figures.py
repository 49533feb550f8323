"""Vega-Lite specs and intervals -> inline SVG: one theme, text kept as text, no script needed, light and dark.

Colours are CSS variables of the page with the plain colour as fallback, so that one drawing serves both modes.
"""

from __future__ import annotations

import functools
import json
import math
import re
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup, escape

from tycho.config import merged
from tycho.drawing import svg
from tycho.errors import one_line

# Okabe and Ito's colours, told apart with every common kind of colour blindness. Their black follows the page's ink.
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
# Colours that no data can have by chance, replaced by the page's own after drawing.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
VARIABLES = {INK: "currentColor", MUTED: "var(--muted,#5b616b)", GRID: "var(--hairline,#dddddd)"} | {
    colour: f"var(--series-{number},{colour})" for number, colour in enumerate(SERIES, start=1)
}
THEME: dict[str, Any] = {
    "background": None,
    # At the sides for labels: the reader's sans-serif may be wider than the one that the renderer measures with.
    "padding": {"left": 18, "top": 6, "right": 18, "bottom": 4},
    "font": "sans-serif",
    "view": {"continuousWidth": 340, "continuousHeight": 220, "stroke": None},
    "range": {
        "category": list(SERIES),
        "ordinal": {"scheme": "viridis"},
        "ramp": {"scheme": "viridis"},
        "heatmap": {"scheme": "viridis"},
        "diverging": {"scheme": "blueorange"},
    },
    # The figure's own label says what to see. A label on every mark would drown it: those with a tooltip get one (`_hoverable`).
    "mark": {"color": SERIES[0], "aria": False},
    "line": {"strokeWidth": 2},
    "point": {"size": 36, "filled": True},
    "rule": {"color": MUTED},
    "text": {"color": INK, "fontSize": 11},
    "errorbar": {"ticks": False},
    "axis": {
        "aria": False,
        "domainColor": MUTED,
        "tickColor": MUTED,
        "gridColor": GRID,
        "gridOpacity": 0.8,
        "labelColor": MUTED,
        "titleColor": INK,
        "labelFontSize": 11,
        "labelSeparation": 5,
        "titleFontSize": 11.5,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "tickSize": 4,
    },
    "legend": {
        "aria": False,
        "labelColor": INK,
        "titleColor": MUTED,
        "symbolBaseFillColor": MUTED,
        "symbolBaseStrokeColor": MUTED,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "labelLimit": 220,
    },
    "header": {"labelColor": INK, "titleColor": MUTED, "labelFontSize": 11, "titleFontWeight": "normal"},
    "title": {"color": INK, "subtitleColor": MUTED, "fontSize": 13, "fontWeight": 600, "anchor": "start", "offset": 10},
}
PLAIN = {INK: "#1a1c20", MUTED: "#5b616b", GRID: "#dddddd"}
SVG = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"
ElementTree.register_namespace("", SVG[1:-1])
ElementTree.register_namespace("xlink", HREF[1 : HREF.index("}")])


def compile_figure(spec: dict[str, Any], prefix: str) -> Markup:
    """A spec as SVG to put into the page; a spec that cannot be drawn gives a line that says why.

    Args:
        spec: Vega-Lite, its data inside; `usermeta.says` becomes the drawing's label.
        prefix: stands before every id of the drawing. Ids are a page's own, and the renderer gives each figure the same.
    """
    if not isinstance(spec, dict):
        return Markup('<p class="note">This figure cannot be drawn: it is no Vega-Lite specification.</p>')
    try:
        drawn = _draw(_themed(spec))
        return Markup(_for_page(drawn, prefix, str((spec.get("usermeta") or {}).get("says", ""))))
    except (ValueError, ElementTree.ParseError) as error:
        return Markup('<p class="note">This figure cannot be drawn: {}</p>').format(one_line(error)[:300])


def standalone(spec: dict[str, Any]) -> str | None:
    """A spec as an SVG file of its own: plain colours on white, for papers and slides. None where it cannot be drawn."""
    if not isinstance(spec, dict):
        return None
    try:
        drawn = _draw(_themed(spec))
    except ValueError:
        return None
    for placeholder, colour in PLAIN.items():
        red, green, blue = (int(placeholder[at : at + 2], 16) for at in (1, 3, 5))
        drawn = re.sub(rf"{placeholder}|rgb\({red}, ?{green}, ?{blue}\)", colour, drawn, flags=re.IGNORECASE)
    return drawn


def _themed(spec: dict[str, Any]) -> str:
    # Altair writes its own default size into every spec; the theme's holds unless the room chose another one.
    own = dict(spec.get("config") or {})
    own["view"] = {k: v for k, v in own.get("view", {}).items() if not (k.startswith("continuous") and v == 300)}
    return json.dumps({**_hoverable(spec), "config": merged(THEME, own)}, sort_keys=True)


def _hoverable(part: Any) -> Any:
    """The spec with its marks that have a tooltip labelled by what they stand for, which `_for_page` makes a title of."""
    if isinstance(part, list):
        return [_hoverable(inner) for inner in part]
    if not isinstance(part, dict):
        return part
    found = {name: part[name] if name in ("data", "datasets") else _hoverable(part[name]) for name in part}
    if "mark" in found and isinstance(found.get("encoding"), dict) and found["encoding"].get("tooltip"):
        mark = found["mark"] if isinstance(found["mark"], dict) else {"type": found["mark"]}
        found["mark"] = {**mark, "aria": True}
    return found


@functools.lru_cache(maxsize=256)
def _draw(spec: str) -> str:
    return svg(spec)


def _for_page(drawn: str, prefix: str, says: str) -> str:
    """The renderer's SVG made fit for a page: own ids, the page's colours, nothing that could run or load."""
    root = ElementTree.fromstring(drawn)
    ids = {node.get("id"): f"{prefix}-{number}" for number, node in enumerate(_with_id(root))}
    for node in root.iter():
        for child in list(node):
            if child.tag in (f"{SVG}script", f"{SVG}foreignObject"):
                node.remove(child)
        if node is not root and (label := node.get("aria-label")):
            title = ElementTree.Element(f"{SVG}title")
            title.text = re.sub(r"-?\d+\.\d{5,}", lambda found: f"{float(found[0]):.4g}", label)
            node.insert(0, title)
        for name, value in list(node.attrib.items()):
            if name.startswith(("on", "aria-")) or name in ("role", "class", "font-family", "version"):
                del node.attrib[name]
            elif name in ("href", HREF):
                if value.startswith("#") and value[1:] in ids:
                    node.set(name, f"#{ids[value[1:]]}")
                elif not value.startswith(("https://", "data:image/")):
                    del node.attrib[name]
            elif name == "id":
                node.set(name, ids[value])
            elif value.startswith("url(#"):
                node.set(name, re.sub(r"url\(#([^)]*)\)", lambda found: f"url(#{ids.get(found[1], '')})", value))
            elif name in ("fill", "stroke"):
                node.set(name, _variable(value))
    root.attrib |= {"role": "img", "aria-label": says} if says else {"role": "img"}
    return ElementTree.tostring(root, encoding="unicode")


def _with_id(root: ElementTree.Element) -> list[ElementTree.Element]:
    return [node for node in root.iter() if node.get("id")]


@functools.cache
def _variable(colour: str) -> str:
    upper = colour.upper()
    if found := re.fullmatch(r"RGB\((\d+), ?(\d+), ?(\d+)\)", upper):
        upper = "#" + "".join(f"{int(part):02X}" for part in found.groups())
    return VARIABLES.get(upper, colour)


# --- intervals -------------------------------------------------------------------------------------------------------

WIDTH, LINE, EDGE, LABEL = 220.0, 16.0, 6.0, 32.0


class _Axis:
    """Numbers to places in the drawing; ratios on a logarithmic axis. Open ends stop at the edge."""

    def __init__(self, values: list[float], log: bool, width: float):
        self.log, self.width = log, width
        places = [self._raw(value) for value in values if self._fits(value)]
        low, high = (min(places), max(places)) if places else (0.0, 1.0)
        spread = (high - low) or abs(high) or 1.0
        self.low, self.high = low - 0.12 * spread, high + 0.12 * spread

    def _fits(self, value: float) -> bool:
        return math.isfinite(value) and (value > 0 or not self.log)

    def _raw(self, value: float) -> float:
        return math.log(value) if self.log else value

    def __call__(self, value: float) -> float:
        if not self._fits(value):
            return self.width - EDGE if value > 0 else EDGE
        share = (self._raw(value) - self.low) / (self.high - self.low)
        return EDGE + share * (self.width - 2 * EDGE)


def forest(lines: list[tuple[float, float, float, float | None, float | None, str]], *, log: bool = False) -> Markup:
    """A small forest plot: intervals, the margins as upright lines, and the side where the claim holds shaded.

    Args:
        lines: (effect, low, high, above, below, says) each; the claim holds where the interval lies above `above` and
            below `below`. None leaves that side open; infinite ends are drawn as arrows. `says` is the line in words.
        log: a logarithmic axis, for ratios.
    """
    if not any(math.isfinite(value) for line in lines for value in line[:3]):
        return Markup("")
    every = [value for line in lines for value in line[:5] if value is not None]
    if any(line[3] is None or line[4] is None for line in lines):
        every.append(1.0 if log else 0.0)  # no difference; two-sided bounds say themselves where that is
    axis = _Axis(every, log, WIDTH)
    parts: list[str] = []
    for row, (effect, low, high, above, below, says) in enumerate(lines):
        top, middle = row * LINE, (row + 0.5) * LINE
        parts.append(f"<g><title>{escape(says)}</title>")
        if above is not None or below is not None:
            left = axis(above) if above is not None else 0.0
            right = axis(below) if below is not None else WIDTH
            parts.append(
                f'<rect class="holds" x="{left:.1f}" y="{top:g}" width="{right - left:.1f}" height="{LINE:g}"/>'
            )
        for bound in (above, below):
            if bound is not None:
                parts.append(f'<path class="margin" d="M{axis(bound):.1f} {top:g}v{LINE:g}"/>')
        if not (math.isnan(low) or math.isnan(high)):
            parts.append(f'<path class="interval" d="M{axis(low):.1f} {middle:g}H{axis(high):.1f}"/>')
            for end, way in ((low, 1), (high, -1)):
                if math.isinf(end):
                    tip = f"M{axis(end) + 4 * way:.1f} {middle - 3:g}l{-4 * way} 3l{4 * way} 3"
                    parts.append(f'<path class="interval" d="{tip}"/>')
        if math.isfinite(effect):
            parts.append(f'<circle class="effect" cx="{axis(effect):.1f}" cy="{middle:g}" r="3.2"/>')
        parts.append("</g>")
    height = LINE * len(lines)
    close: list[list[float]] = []  # bounds whose labels would lie on each other share one
    for bound in sorted({bound for line in lines for bound in line[3:5] if bound is not None}):
        if close and axis(bound) - axis(close[-1][-1]) < LABEL:
            close[-1].append(bound)
        else:
            close.append([bound])
    for bounds in close:
        place = (axis(bounds[0]) + axis(bounds[-1])) / 2
        anchor = "start" if place < 30 else "end" if place > WIDTH - 30 else "middle"
        text = " … ".join(f"{bound:g}".replace("-", "−") for bound in dict.fromkeys((bounds[0], bounds[-1])))
        parts.append(f'<text x="{place:.1f}" y="{height + 10:g}" text-anchor="{anchor}">{text}</text>')
    label = escape("; ".join(line[5] for line in lines))
    box = f"0 0 {WIDTH:g} {height + 14:g}"
    return Markup(f'<svg class="forest" role="img" aria-label="{label}" viewBox="{box}">{"".join(parts)}</svg>')


def strip(mean: float, low: float, high: float, floor: float, ceiling: float) -> Markup:
    """One mean with its interval on an axis from `floor` to `ceiling`, for a row of a table; told in words beside it."""
    width, middle = 160.0, 6.0
    if not math.isfinite(mean):
        return Markup("")
    axis = _Axis([floor, ceiling], False, width)
    parts = [f'<path class="axis" d="M0 {middle:g}H{width:g}"/>']
    if math.isfinite(low) and math.isfinite(high):
        parts.append(f'<path class="interval" d="M{axis(low):.1f} {middle:g}H{axis(high):.1f}"/>')
    parts.append(f'<circle class="effect" cx="{axis(mean):.1f}" cy="{middle:g}" r="2.8"/>')
    return Markup(f'<svg class="strip" aria-hidden="true" viewBox="0 0 {width:g} 12">{"".join(parts)}</svg>')
