"""The five steps of data generation with a scripted annotator, and with one that answers nonsense."""

from __future__ import annotations

import json
import threading
from collections import Counter

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from trajectories import soup

from methods.deepconf.answers import boxed
from methods.threadweaver.annotate import main, run, served
from methods.threadweaver.annotation import (
    Cut,
    Trajectory,
    annotate,
    assemble,
    cut,
    groups,
    numbered,
    plans,
    read_json,
    replaced,
)
from methods.threadweaver.format import is_correct
from methods.threadweaver.orchestrator import units_of
from methods.threadweaver.own import read_rows
from tycho.errors import TychoError

LINES = [
    "We need the products of both groups.\n",
    "First 3*5=15.\n",
    "Then 15*2=30.\n",
    "Like before, 4*6=24 and\n",
    "24*1=24, less than 30.\n",
    "In all 30*24=720.\n",
    r"So \boxed{720}.",
]
SOURCE = Trajectory("Multiply!", "".join(LINES))
SPANS = json.dumps({"blocks": [{"threads": [[2, 3], [4, 5]]}]})


class Annotator:
    """Tells the three roles apart by what they ask for, and keeps what it was asked."""

    def __init__(self, spans: str = SPANS) -> None:
        self.spans, self.asked = spans, []

    def __call__(self, prompts):
        self.asked.append(list(prompts))
        return [self.reply(prompt) for prompt in prompts]

    def reply(self, prompt: str) -> str:
        if '"blocks"' in prompt:
            return f"Here you are:\n```json\n{self.spans}\n```"
        if '"src"' in prompt:
            notes = prompt.rpartition("NOTES:\n")[2]
            edits = [{"src": "Like before, ", "dst": ""}, {"src": ", less than 30", "dst": ""}]
            return json.dumps([edit for edit in edits if edit["src"] in notes])
        return '["Multiply the first group.", "Multiply the second\\n group."]'


def test_a_solution_becomes_threads_that_do_not_know_each_other() -> None:
    ask = Annotator()
    found = annotate([SOURCE], ask, least_saved=20, answer=boxed)
    assert not found.left_out
    (made,) = found.kept
    assert made.prompt == SOURCE.prompt
    assert made.response == (
        "We need the products of both groups.\n"
        "<Parallel>\n<Outlines>\n<Outline>1: Multiply the first group.</Outline>\n"
        "<Outline>2: Multiply the second group.</Outline>\n</Outlines>\n"
        "<Thread>\n1: First 3*5=15.\nThen 15*2=30.\n</Thread><Thread>\n2: 4*6=24 and\n24*1=24.\n</Thread>\n</Parallel>\n"
        "In all 30*24=720.\nSo \\boxed{720}."
    )
    assert is_correct(made.response, spacing="canonical", need_block=True) and units_of(*made)
    edits = ask.asked[1]
    assert len(ask.asked) == 3 and len(edits) == 2
    context, hidden = (edits[0].partition(mark)[2].partition("\n\n")[0] for mark in ("CONTEXT:\n", "HIDDEN:\n"))
    assert "First" not in context and "4*6" in hidden and "15*2" not in hidden
    (outline,) = ask.asked[2]
    assert "30*24" not in outline.replace("In all", "")


def test_blocks_that_save_too_little_stay_in_sequence() -> None:
    """All threads but the longest must have that many characters together: 200 in the script, 100 by default."""
    left_out: Counter[str] = Counter()
    block, saved = Cut(((1, 3), (3, 5))), len("".join(LINES[1:3]))
    assert saved < len("".join(LINES[3:5]))
    assert cut([block], LINES, saved, left_out) == [block] and not left_out
    assert cut([block], LINES, saved + 1, left_out) == [] and left_out == {"blocks: too little saved": 1}
    found = annotate([SOURCE], Annotator())
    assert not found.kept and found.left_out == {"blocks: too little saved": 1, "format: no_block": 1}
    assert annotate([SOURCE], Annotator(), need_block=False).kept == [SOURCE]


@pytest.mark.parametrize(
    ("spans", "why"),
    [
        ([[2, 3]], "malformed"),
        ([[2, 3], ["4", 5]], "malformed"),
        ([[2, 3], [4, True]], "malformed"),
        ([[2, 3], [5, 6]], "lines do not fit"),
        ([[2, 4], [4, 5]], "lines do not fit"),
        ([[4, 5], [2, 3]], "lines do not fit"),
        ([[6, 7], [8, 8]], "lines do not fit"),
        ([[0, 1], [2, 3]], "lines do not fit"),
    ],
)
def test_groups_that_do_not_fit_are_left_out(spans, why: str) -> None:
    left_out: Counter[str] = Counter()
    good = {"threads": [[6, 6], [7, 7]]}
    reply = json.dumps({"blocks": [{"threads": spans}, good]})
    assert groups(reply, len(LINES), left_out) == [Cut(((5, 6), (6, 7)))]
    assert left_out == {f"groups: {why}": 1}
    assert groups(json.dumps({"blocks": [good, good]}), 7, Counter()) == [Cut(((5, 6), (6, 7)))]


def test_replacements_are_exact_and_bring_no_tags_in() -> None:
    left_out: Counter[str] = Counter()
    edits = [
        {"src": "one", "dst": "1"},
        {"src": "o", "dst": "0"},
        {"src": "two", "dst": "<Thread>"},
        {"src": "", "dst": "x"},
        "two",
    ]
    assert replaced("one two too", json.dumps(edits), left_out) == "1 two too"
    assert left_out == {"edits: not found once": 1, "edits: malformed": 3}
    assert replaced("a", "no", left_out) == "a" and left_out["edits: no JSON"] == 1


def test_outlines_are_as_many_as_the_threads() -> None:
    left_out: Counter[str] = Counter()
    assert plans('["a", " b\\nc "]', 2, left_out) == ["a", "b c"]
    assert plans('["a"]', 2, left_out) is None and plans('["a", 2]', 2, left_out) is None
    assert left_out == {"outlines: malformed": 2}
    assert assemble(LINES, [Cut(((1, 3), (3, 5)))], [["x", "y"]], [None]) == SOURCE.response


def test_what_changes_the_answer_or_had_tags_is_left_out() -> None:
    class Forger(Annotator):
        def reply(self, prompt: str) -> str:
            return json.dumps([{"src": "720}.", "dst": "721}."}]) if '"src"' in prompt else super().reply(prompt)

    spans = json.dumps({"blocks": [{"threads": [[5, 6], [7, 7]]}]})
    found = annotate([SOURCE, Trajectory("p", "<Think>x")], Forger(spans), least_saved=1, answer=boxed)
    assert found.left_out["answer changed"] == 1 and found.left_out["has tags already"] == 1 and not found.kept


def test_lines_are_numbered_from_one() -> None:
    assert numbered(["a\n", "b"]) == "1: a\n2: b"
    assert read_json("x [1] y") == [1] and read_json("[") is None and read_json("[" * 100_000 + "]" * 100_000) is None


@given(st.data(), st.sampled_from([1, 200]))
def test_no_reply_raises_and_nothing_badly_formed_is_kept(data: st.DataObject, least: int) -> None:
    spans = st.lists(st.lists(st.integers(-1, 9), max_size=3), max_size=3)
    reply = (
        soup.map("".join)
        | spans.map(lambda threads: json.dumps({"blocks": [{"threads": threads}]}))
        | st.lists(st.dictionaries(st.sampled_from(["src", "dst"]), soup.map("".join)), max_size=3).map(json.dumps)
        | st.just('["a", "b"]')
    )
    found = annotate([SOURCE] * 2, lambda prompts: [data.draw(reply) for _ in prompts], least_saved=least)
    assert all(is_correct(made.response, spacing="canonical", need_block=True) for made in found.kept)


def test_a_run_that_breaks_off_goes_on_behind_what_is_there(tmp_path) -> None:
    rows = [{"prompt": f"p{n}", "response": SOURCE.response, "answer": "720"} for n in range(3)]
    out, ask = tmp_path / "out.jsonl", Annotator()

    def breaks(prompts):
        if len(ask.asked) >= 3:
            raise TychoError("server gone")
        return ask(prompts)

    with pytest.raises(TychoError, match="server gone"):
        run(rows, out, breaks, least_saved=20, batch=2)
    assert len(out.read_text().splitlines()) == 2
    assert not run(rows, out, Annotator(), least_saved=20, batch=2)
    made = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["prompt"] for row in made] == ["p0", "p1", "p2"] and made[0]["answer"] == "720"
    assert read_rows(out)[0]["response"].startswith("We need")
    assert not run(rows, out, breaks, least_saved=20, batch=2)  # all done: nothing is asked


def test_a_server_annotates_too(tmp_path) -> None:
    """Over a real socket: an HTTP server that streams the annotator's replies as vLLM does."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    script = Annotator()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/chat/completions" and body["model"] == "big"
            text = script.reply(body["messages"][0]["content"])
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for choice in ({"delta": {"content": text}}, {"delta": {}, "finish_reason": "stop"}):
                self.wfile.write(f"data: {json.dumps({'choices': [{'index': 0, **choice}]})}\n\n".encode())
            self.wfile.write(b"data: [DONE]\n\n")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        ask = served(f"http://127.0.0.1:{server.server_address[1]}/v1", "big", 500)
        found = annotate([SOURCE], ask, least_saved=20, answer=boxed)
    finally:
        server.shutdown()
    assert len(found.kept) == 1 and not found.left_out


def test_a_server_that_is_gone_is_one_line_and_what_was_kept_stays(tmp_path, capsys) -> None:
    rows = [{"prompt": f"p{n}", "response": SOURCE.response, "answer": "720"} for n in range(2)]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(rows[:1], out, Annotator(), least_saved=20, batch=1)
    kept = out.read_text()
    with pytest.raises(typer.Exit) as ended:
        main(source, out, "http://127.0.0.1:9", "big", 20, 10, 1)
    error = capsys.readouterr().err
    assert ended.value.exit_code == 1 and "cannot be reached" in error and error.count("\n") == 1
    assert kept and out.read_text() == kept and (tmp_path / "out.jsonl.done").read_text() == "1"
