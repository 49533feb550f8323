"""Vega-Lite -> SVG without a browser."""

from __future__ import annotations

import itertools
import re

from tycho.errors import TychoError

_PROBES = itertools.count()


def svg(spec: str) -> str:
    """The drawing of a Vega-Lite spec (JSON text); nothing is loaded. Raises ValueError where it cannot be drawn.

    A spec gives the same bytes in every process: the renderer counts its ids over all that it drew before, here they
    are counted within the drawing.
    """
    import vl_convert

    try:
        drawn = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
        numbers = {
            name: f"id{number}" for number, name in enumerate(dict.fromkeys(re.findall(r'\bid="([^"]+)"', drawn)))
        }
        return re.sub(
            r'(\bid="|url\(#|href="#)([^")]+)', lambda found: found[1] + numbers.get(found[2], found[2]), drawn
        )
    except ValueError:
        _settle()
        raise


def _settle() -> None:
    """After an error the renderer may answer the next calls with that error or with an earlier call's drawing.

    Draws probes until two in a row come back as themselves, so that no figure stands under another one's caption.
    """
    import vl_convert

    in_step = 0
    for _ in range(20):
        name = f"probe {next(_PROBES)}"
        try:
            drawn = vl_convert.vegalite_to_svg({"title": name, "data": {"values": [{}]}, "mark": "point"})
            in_step = in_step + 1 if f">{name}<" in drawn else 0
        except ValueError:
            in_step = 0
        if in_step == 2:
            return
    raise TychoError("the figure renderer does not recover from a figure it could not draw: start again")
