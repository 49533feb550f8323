"""Vega-Lite -> SVG without a browser, and names beside points."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from tycho.errors import TychoError

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

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


def names_beside(
    points: pd.DataFrame, x: str, y: str, name: str, *, of: pd.DataFrame, log: bool = False
) -> list[alt.Chart]:
    """Layers with the names of some points of a drawing that goes over all points `of`: near ones under one name, to their right
    but for the drawing's last third, where there is no room.
    """
    import altair as alt
    import pandas as pd

    def along(frame: pd.DataFrame, column: str, scale: Callable[[float], float] = float) -> pd.Series:
        ends = [scale(end) for end in (of[column].min(), of[column].max())]
        return frame[column].map(scale).sub(ends[0]).div(max(ends[1] - ends[0], 1e-9))

    across = along(points, x, (lambda value: math.log(max(value, 1e-9))) if log else float)  # a cost may be 0
    places = pd.DataFrame(
        {"column": (6 * across).round(), "row": (12 * along(points, y)).round(), "late": across > 2 / 3}
    )
    named = points[[x, y, name]].join(places).sort_values([y, x], ascending=[False, True])
    named = named.groupby(["column", "row"], sort=False, as_index=False).agg(
        {x: "max", y: "max", name: _first_two, "late": "max"}
    )
    return [
        alt.Chart(named.loc[named["late"] == late, [x, y, name]])
        .mark_text(align=align, baseline="top", dx=dx, dy=3, fontSize=10)
        .encode(x=f"{x}:Q", y=f"{y}:Q", text=f"{name}:N")
        for late, align, dx in ((False, "left", 6), (True, "right", -6))
        if (named["late"] == late).any()
    ]


def _first_two(names: pd.Series) -> str:
    apart = list(dict.fromkeys(names))
    return ", ".join(apart[:2]) + ", …" * (len(apart) > 2)
