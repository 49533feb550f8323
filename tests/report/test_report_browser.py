"""The page in a real browser: filters by click and key, links, dark and narrow, without script, and nothing fetched."""

from __future__ import annotations

import io
import json

import pytest
from browser import Page, executable
from PIL import Image

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        executable() is None, reason="no Chromium on PATH and none could be installed: apt-get install chromium"
    ),
]
VISIBLE = "[...document.querySelectorAll('tr.claim')].filter(row => row.offsetParent !== null)"
RETURN = 13


@pytest.fixture(scope="module")
def browser():
    with Page() as page:
        yield page


@pytest.fixture
def page(browser, compiled):
    return opened(browser, compiled, "index.html")


@pytest.fixture
def latent(browser, compiled):
    return opened(browser, compiled, "latent.html")


def opened(browser, results, name: str):
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    browser.look(1280)
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(results / "quick" / "report" / name)
    return browser


def shown(page, column: str) -> list[str]:
    return page.evaluate(f"{VISIBLE}.map(row => row.dataset.{column})")


def button(group: str, value: str) -> str:
    return f"[data-filter={group}] button[data-value={json.dumps(value)}]"


def picture(page, **clip) -> Image.Image:
    import base64

    taken = page.call("Page.captureScreenshot", format="png", **({"clip": clip | {"scale": 1}} if clip else {}))
    return Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB")


def test_only_the_page_itself_is_fetched_and_nothing_complains(page, compiled):
    assert page.requests == [(compiled / "quick" / "report" / "index.html").as_uri()]
    assert page.complaints == []
    assert "claims judged held" in page.evaluate("document.title")


def test_filters_narrow_by_click_and_open_again(page):
    everything = shown(page, "verdict")
    page.click(button("verdict", "supported"))
    assert page.evaluate(f"document.querySelector('{button('verdict', 'supported')}').ariaPressed") == "true"
    assert set(shown(page, "verdict")) == {"supported"} and len(shown(page, "verdict")) == everything.count("supported")
    page.click(button("verdict", "not-planned"))  # values of one kind add up
    assert set(shown(page, "verdict")) == {"supported", "not-planned"}
    page.click(button("direction", "latent"))  # kinds narrow each other
    assert set(shown(page, "direction")) == {"latent"} and set(shown(page, "verdict")) == {"supported", "not-planned"}
    told = page.evaluate("document.querySelector('.filters [role=status]').textContent")
    assert told == f"{len(shown(page, 'verdict'))} of {len(everything)} claims"
    headings = page.evaluate(
        "[...document.querySelectorAll('tr.group')].filter(g => g.offsetParent).map(g => g.innerText)"
    )
    assert headings == ["Latent steps"]
    page.click(button("fidelity", "theorem"))
    assert shown(page, "verdict") == []
    page.click(".filters .clear")
    assert shown(page, "verdict") == everything
    assert page.evaluate("document.querySelectorAll('.filters [aria-pressed=true]').length") == 0


def test_filters_by_keyboard(page):
    page.evaluate(f"document.querySelector('{button('fidelity', 'theorem')}').focus()")
    page.key("Enter", RETURN, "\r")
    assert set(shown(page, "fidelity")) == {"theorem"}
    page.key("Enter", RETURN, "\r")
    assert len(set(shown(page, "fidelity"))) > 1


def test_a_link_to_a_filtered_row_shows_it(page):
    page.click(button("verdict", "contradicted"))
    assert shown(page, "verdict") == ["contradicted"]
    page.evaluate("location.hash = '#claim-updates-identity'; new Promise(done => setTimeout(done, 50))")
    assert page.evaluate("document.getElementById('claim-updates-identity').offsetParent !== null")


def test_words_narrow_too(page):
    page.click("#find")
    page.call("Input.insertText", text="CONTROL tokens")
    found = page.evaluate(f"{VISIBLE}.map(row => row.textContent.toLowerCase())")
    assert all("control" in text and "tokens" in text for text in found)
    page.evaluate("document.querySelector('#find').select()")
    page.call("Input.insertText", text="latent.beats-written")
    assert page.evaluate(f"{VISIBLE}.map(row => row.id)") == ["claim-latent-beats-written"]
    page.click(".filters .clear")
    assert len(shown(page, "verdict")) > 10 and page.evaluate("document.querySelector('#find').value") == ""


def test_columns_sort_by_size(latent):
    column = "[...document.querySelectorAll('table.costs tbody tr')].map(r => parseFloat(r.cells[2].textContent))"
    head = "table.costs thead th:nth-child(3)"
    latent.click(f"{head} button")
    rising = latent.evaluate(column)
    assert rising == sorted(rising) and len(rising) > 3
    assert latent.evaluate(f"document.querySelector('{head}').ariaSort") == "ascending"
    latent.evaluate(f"document.querySelector('{head} button').focus()")
    latent.key("Enter", RETURN, "\r")
    assert latent.evaluate(column) == rising[::-1]


def test_a_number_leads_to_its_seeds(latent):
    latent.evaluate("document.querySelector('.metric a.n').click()")
    latent.wait("Page.loadEventFired")
    assert "/records/latent.html#v-" in latent.evaluate("location.href")
    assert latent.evaluate("document.querySelector(':target').tagName") == "TR"


def test_samples_right_and_wrong(latent):
    page = latent
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    items = "[...document.querySelectorAll('.browser li')].filter(li => li.offsetParent).map(li => li.dataset.correct)"
    assert set(page.evaluate(items)) == {"right", "wrong"}
    page.click("[data-samples] button[data-value=wrong]")
    assert set(page.evaluate(items)) == {"wrong"}
    page.click("[data-samples] button[data-value=all]")
    assert set(page.evaluate(items)) == {"right", "wrong"}


def test_without_script_the_page_is_whole(page, compiled):
    everything = len(shown(page, "verdict"))
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    page.open(compiled / "quick" / "report" / "index.html")
    assert page.evaluate(f"{VISIBLE}.length") == everything > 10
    assert page.evaluate("document.querySelector('.filters').offsetParent") is None
    assert page.evaluate("[...document.querySelectorAll('[data-samples]')].every(g => g.offsetParent === null)")


@pytest.mark.parametrize("name", ["index.html", "latent.html", "updates.html", "records/latent.html", "mlflow.html"])
def test_nothing_is_wider_than_the_window(browser, compiled, name):
    page = opened(browser, compiled, name)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    for width in (1440, 820, 360):
        page.look(width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_long_path_in_a_reason_breaks(page):
    """What a broken room says names its folder, which may lie deep."""
    page.evaluate(
        "document.querySelectorAll('.problems li, .cards p').forEach(p => p.append(' /home/' + 'deep'.repeat(30)))"
    )
    page.look(360)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_rows_are_cards_on_a_phone_and_name_their_fields(page):
    assert page.evaluate("getComputedStyle(document.querySelector('tr.claim')).display") == "table-row"
    page.look(390)
    assert page.evaluate("getComputedStyle(document.querySelector('tr.claim')).display") == "grid"
    assert page.evaluate("getComputedStyle(document.querySelector('td.here'), '::before').content") == '"Here"'


def test_text_is_readable_in_light_and_dark(page):
    """Contrast of at least 4.5 for text, 3 for the marks of verdicts and of figures (WCAG AA)."""
    luminance = """
    const lum = c => { const [r, g, b] = c.map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126*r + .7152*g + .0722*b };
    const probe = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const rgb = c => { probe.fillStyle = c; probe.fillRect(0, 0, 1, 1); return [...probe.getImageData(0, 0, 1, 1).data].slice(0, 3) };
    const ratio = (a, b) => { const [x, y] = [lum(rgb(a)), lum(rgb(b))].sort((p, q) => q - p); return (x + .05) / (y + .05) };
    const value = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    """
    names = ["supported", "not-attributable", "contradicted", "inconclusive", "not-learnt", "not-run"]
    marks = [f"--{name}" for name in names] + [f"--series-{number}" for number in range(1, 8)]
    for dark in (False, True):
        page.look(1280, dark=dark)
        wanted = json.dumps(
            {"--ink": 7, "--muted": 4.5, "--link": 4.5} | dict.fromkeys(marks, 2.7) | {f"--{n}": 4.4 for n in names}
        )
        low = page.evaluate(
            f"(() => {{ {luminance} return Object.entries({wanted}).map(([n, least]) => [n, ratio(value(n), value('--paper')), least])"
            ".filter(([n, is, least]) => is < least) })()"
        )
        assert low == []


@pytest.mark.parametrize("dark", [False, True])
def test_page_and_figures_follow_the_colour_scheme(latent, dark):
    """Seen in pixels: the corner of the page and of a figure have the scheme's ground, and something is drawn on it."""
    page = latent
    page.look(1280, dark=dark)
    corner = sum(picture(page).getpixel((3, 3))) / 3
    assert corner < 60 if dark else corner > 200
    box = page.evaluate(
        "(() => { const f = document.querySelector('figure > svg'); f.scrollIntoView({behavior: 'instant'});"
        " const r = f.getBoundingClientRect(); return [r.x + scrollX, r.y + scrollY, r.width, r.height] })()"
    )
    drawn = picture(page, x=box[0], y=box[1], width=box[2], height=box[3])
    ground = sum(drawn.getpixel((1, 1))) / 3
    assert abs(ground - corner) < 12
    colours = {found[1] for found in drawn.getcolors(1 << 20) or []}
    assert len(colours) > 20
    ink = [sum(colour) / 3 for colour in colours]
    assert max(ink) - min(ink) > 120
    texts = "[...document.querySelectorAll('figure text')].map(t => getComputedStyle(t).fill)"
    pair = page.evaluate(
        "['--ink', '--muted'].map(n => getComputedStyle(document.documentElement).getPropertyValue(n))"
    )
    wanted = {"rgb({}, {}, {})".format(*bytes.fromhex(colour.strip(" #"))) for colour in pair}
    assert set(page.evaluate(texts)) == wanted


def names(page, *roles: str) -> list[str]:
    """What a screen reader is told of the elements of these roles."""
    tree = page.call("Accessibility.getFullAXTree")["nodes"]
    return [
        n["name"]["value"] for n in tree if n.get("role", {}).get("value") in roles and n.get("name", {}).get("value")
    ]


def test_screen_readers_are_told_what_is_drawn(page):
    assert any("accuracy: latent − written: +0." in n and "interval" in n for n in names(page, "image", "img"))
    assert "supported" in " ".join(names(page, "button"))
    assert names(page, "searchbox") == ["find"]


def test_screen_readers_are_told_of_figures(latent):
    assert "Points up and to the left are better; seeds lie close together." in names(latent, "image", "img")


def test_hostile_model_output_does_not_run(browser, own_copy):
    """Were a string obeyed, it would open a dialog or fetch its picture."""
    from synthetic import planned

    from reports.compile import compile_report
    from tycho import records

    hostile = "</script><img src=x onerror=alert(1)><script>alert(2)</script>"
    for name, columns in {"claims": ["says", "reason"], "samples": ["prompt", "response", "target"]}.items():
        path = own_copy / "quick" / f"{name}.parquet"
        records.write(path, records.read(path).assign(**dict.fromkeys(columns, hostile)))
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    browser.requests.clear()
    browser.complaints.clear()
    index, _ = compile_report(planned(own_copy))
    pages = [index, index.parent / "latent.html", index.parent / "records" / "latent.html"]
    for page in pages:
        browser.open(page)
        browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert hostile in browser.evaluate("document.body.textContent")
        assert browser.evaluate("document.images.length") == 0
        if page.name == "latent.html" and page.parent == index.parent:
            # A sign that turns the direction of writing must not turn the page's own words.
            assert browser.evaluate("getComputedStyle(document.querySelector('.browser dd')).unicodeBidi") == "isolate"
    assert browser.requests == [page.as_uri() for page in pages] and browser.complaints == []


def test_print_shows_all_claims_and_no_controls(page):
    page.look(1280, media="print")
    assert page.evaluate("getComputedStyle(document.querySelector('.filters')).display") == "none"
    assert page.evaluate(f"{VISIBLE}.length") > 10
    assert len(page.call("Page.printToPDF")["data"]) > 50_000
