"""Figures are drawn without script or network, fit for a page, in the page's own colours."""

from __future__ import annotations

import json
import math
import re
from xml.etree import ElementTree

import altair as alt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import figures
from reports.figures import SERIES, compile_figure, forest, strip
from tycho.drawing import names_beside, svg

FRAME = pd.DataFrame({"x": [0, 1, 2, 3], "y": [0.0, 2.0, 1.0, 3.0], "arm": ["a", "b", "a", "b"]})
LINES = (
    alt.Chart(FRAME, title="T</svg><script>alert(1)</script>")
    .mark_line(clip=True)
    .encode(x="x:Q", y="y:Q", color="arm:N")
)


def spec(chart, says="What to see.") -> dict:
    return chart.to_dict() | {"usermeta": {"says": says}}


def ids(svg: str) -> list[str]:
    return re.findall(r' id="([^"]*)"', svg)


def test_ids_are_the_figures_own_and_still_resolve():
    twice = [compile_figure(spec(LINES | LINES), f"f-{name}") for name in ("one", "two")]
    assert ids(twice[0]) and not set(ids(twice[0])) & set(ids(twice[1]))
    for drawn in twice:
        assert len(ids(drawn)) == len(set(ids(drawn)))
        assert set(re.findall(r"url\(#([^)]*)\)", drawn)) <= set(ids(drawn))


def test_text_stays_text_and_nothing_can_run():
    svg = compile_figure(spec(LINES, says='Look "here" <b>'), "f")
    root = ElementTree.fromstring(svg)
    texts = {node.text for node in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"arm", "a", "b", "T</svg><script>alert(1)</script>"} <= texts
    assert "<script" not in svg and root.get("aria-label") == 'Look "here" <b>' and root.get("role") == "img"


def test_a_mark_with_a_tooltip_says_on_hover_what_it_is_and_no_other_does():
    dots = alt.Chart(FRAME.assign(y=FRAME.y + 0.123456789, arm="<b>")).mark_point()
    plain = compile_figure(spec(dots.encode(x="x:Q", y="y:Q")), "f")
    assert "<title>" not in plain and plain.count("aria-label") == 1
    drawn = ElementTree.fromstring(compile_figure(spec(dots.encode(x="x:Q", y="y:Q", tooltip=["arm", "y"])), "f"))
    titles = [node.text for node in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == len(FRAME) and titles[1] == "x: 1; y: 2.123; arm: <b>"


def linked(url: str) -> dict:
    # An href on a mark is the only thing in a spec that a reader could click on.
    return spec(alt.Chart(FRAME.assign(u=url), title=url).mark_point().encode(x="x:Q", y="y:Q", href="u:N"))


def test_links_out_of_a_figure_are_https_or_gone():
    assert 'href="https://example.org/a"' in compile_figure(linked("https://example.org/a"), "f")
    assert "href=" not in compile_figure(linked("http://example.org/a"), "f")
    assert "href=" not in compile_figure(linked("javascript:alert(1)"), "f")


def test_a_figure_that_fails_does_not_put_another_in_the_next_ones_place():
    """The renderer, left alone, answers the calls after an error with what earlier ones asked for."""
    for number in range(3):
        assert "cannot be drawn" in compile_figure(linked(f"javascript:alert({number})"), "f")
        for name in (f"a{number}", f"b{number}"):
            drawn = compile_figure(spec(alt.Chart(FRAME, title=name).mark_point().encode(x="x:Q")), "f")
            assert f">{name}<" in drawn


def test_colours_follow_the_page():
    svg = compile_figure(spec(LINES), "f")
    assert f"var(--series-1,{SERIES[0]})" in svg and f"var(--series-2,{SERIES[1]})" in svg
    assert "currentColor" in svg and "var(--muted" in svg and "#01010" not in svg
    assert 'fill="white"' not in svg and 'fill="#fff"' not in svg


def test_same_spec_gives_the_same_bytes():
    first = compile_figure(spec(LINES), "f")
    figures._draw.cache_clear()  # drawn again, its ids counted on by the renderer
    assert compile_figure(spec(LINES), "f") == first


@pytest.mark.parametrize(
    "wrong", [{"mark": "nonsense"}, {"data": {"url": "https://example.com/x.csv"}, "mark": "bar"}, []]
)
def test_what_cannot_be_drawn_says_so(wrong):
    answer = compile_figure(wrong, "f")
    assert "cannot be drawn" in answer and "<svg" not in answer


def test_a_rooms_own_size_and_colours_hold():
    small = spec(alt.Chart(FRAME).mark_line(color="#123456").encode(x="x:Q", y="y:Q").properties(width=77))
    assert "#123456" in compile_figure(small, "f")
    widths = [float(re.search(r'<svg[^>]* width="([\d.]+)"', compile_figure(s, "f"))[1]) for s in (small, spec(LINES))]
    assert widths[0] < 200 < widths[1]


# --- forest plots ----------------------------------------------------------------------------------------------------


def places(svg: str) -> tuple[float, float, float, list[tuple[float, float]]]:
    """Left and right end of the interval, the dot, and the shaded ranges."""
    left, right = re.search(r'class="interval" d="M([\d.]+) [\d.]+H([\d.]+)"', svg).groups()
    dot = re.search(r'cx="([\d.]+)"', svg)[1]
    shades = re.findall(r'class="holds" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', svg)
    return float(left), float(right), float(dot), [(float(x), float(x) + float(w)) for x, w in shades]


numbers = st.floats(-50, 50)


@given(numbers, st.floats(0.01, 20), st.floats(0.01, 20), numbers, st.booleans())
def test_the_line_lies_in_the_shade_exactly_where_the_claim_holds(effect, down, up, bound, above):
    low, high = effect - down, effect + up
    line = (effect, low, high, bound, None, "") if above else (effect, low, high, None, bound, "")
    left, right, dot, [(start, end)] = places(forest([line]))
    assert left < dot + 0.11 and dot < right + 0.11
    inside = left > start - 0.11 and right < end + 0.11
    holds = low > bound if above else high < bound
    if abs((low if above else high) - bound) > 0.01 * (abs(bound) + down + up + abs(effect)):
        assert inside == holds


def test_ratios_lie_on_a_logarithmic_axis():
    left, right, dot, _ = places(forest([(1.0, 0.5, 2.0, None, None, "")], log=True))
    assert dot - left == pytest.approx(right - dot, abs=0.11)


def test_open_ends_are_arrows_at_the_edge():
    svg = forest([(1.0, -math.inf, math.inf, 0.0, None, "a bound")])
    left, right, _, _ = places(svg)
    assert (left, right) == (6.0, 214.0) and svg.count('class="interval"') == 3 and 'aria-label="a bound"' in svg


def test_nothing_to_draw_draws_nothing():
    assert forest([(math.nan, math.nan, math.nan, 0.0, None, "")]) == ""
    assert strip(math.nan, math.nan, math.nan, 0, 1) == ""


def test_a_claim_in_words_is_escaped():
    assert "<img" not in forest([(1.0, 0.0, 2.0, 0.0, None, "<img src=x onerror=alert(1)>")])


def test_a_drawing_has_the_same_bytes_whatever_was_drawn_before():
    text = json.dumps(spec(LINES))
    first = svg(text)
    for title in "abcdefghijkl":
        svg(json.dumps(spec(LINES) | {"title": title}))
    assert svg(text) == first
    used = set(re.findall(r"url\(#([^)]+)\)", first))
    assert used and used <= set(re.findall(r'\bid="([^"]+)"', first))


def test_labels_of_close_margins_are_one_label():
    def labels(*bounds):
        return re.findall(r"<text[^>]*>([^<]*)</text>", forest([(-0.3, -0.9, 0.3, *bounds, "f")]))

    assert labels(-0.03, 0.03) == ["−0.03 … 0.03"]
    assert labels(-0.5, 0.5) == ["−0.5", "0.5"]
    assert labels(0.1, None) == ["0.1"]


def test_names_stand_where_there_is_room_and_near_points_share_one():
    points = pd.DataFrame({"x": [1.0, 1.01, 1.02, 9.9], "y": [0.5, 0.5, 0.5, 0.9], "who": ["a", "b", "c", "last"]})
    of = pd.DataFrame({"x": [1.0, 10.0], "y": [0.0, 1.0]})
    left, right = (layer.to_dict() for layer in names_beside(points, "x", "y", "who", of=of))
    found = [(spec["mark"]["align"], *next(iter(spec["datasets"].values()))) for spec in (left, right)]
    assert found == [
        ("left", {"x": 1.02, "y": 0.5, "who": "a, b, …"}),  # beyond the last of them
        ("right", {"x": 9.9, "y": 0.9, "who": "last"}),
    ]
    (alone,) = names_beside(points[:1], "x", "y", "who", of=points[:1], log=True)  # a drawing without any extent
    assert alone.to_dict()["mark"]["align"] == "left"
    free = points.assign(x=[0.0, 1.0, 2.0, 3.0])  # what costs nothing: no place on a logarithmic axis
    assert names_beside(free, "x", "y", "who", of=free, log=True)
