"""From sequential trajectories to fork-join ones in five steps, with a large model as annotator (arXiv 2512.07843, stage 1).

1. The model groups numbered lines that do not depend on each other (`GROUP`).
2. A script cuts the groups into threads; a block that would save too little is left as it was.
3. Thread by thread, the model lists the smallest replacements that take out what a thread knows of its siblings (`EDIT`).
4. The model writes the outlines from what stands before the block (`OUTLINE`).
5. A script keeps what has the right format and still the same answer.

Nothing is rewritten as a whole: the words of a trajectory are its own but for the replacements and the outlines. `Ask`
is any chat model. What it answers is only ever read as JSON and searched in the text; whatever does not fit is left out
and counted, and never raises.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from methods.threadweaver.format import MOST_OUTLINES, TAGS, check, render_block

Ask = Callable[[Sequence[str]], Sequence[str]]  # prompts -> replies

LEAST_SAVED = {"script": 200, "code": 100}  # characters; the published script's value, and its function's default

GROUP = """\
Below is a worked solution; every line has a number. Find stretches that a team could work out at the same time: parts of \
the solution of which none needs a result of another, and which follow each other without a gap. Typical are cases of a \
case distinction, separate sub-goals, or several ways to check one result.

Answer with JSON only:
{{"blocks": [{{"threads": [[first_line, last_line], [first_line, last_line]]}}]}}
A block has two threads or more, given in the order of the text. Line numbers are inclusive. If nothing can run in \
parallel, answer {{"blocks": []}}.

{lines}
"""

EDIT = """\
Several people work at the same time and cannot see each other's notes. Below is what all of them have read (CONTEXT), what \
the others write (HIDDEN), and the notes of one of them (NOTES). The notes were first written by someone who had also seen \
HIDDEN. List the smallest replacements in NOTES after which they no longer refer to anything that stands in HIDDEN only. \
Keep every computation and result.

Answer with JSON only: [{{"src": "exact words of NOTES", "dst": "what stands there instead"}}], or [] if nothing must change.

CONTEXT:
{context}

HIDDEN:
{hidden}

NOTES:
{notes}
"""

OUTLINE = """\
A solution is about to split into {count} parts that are worked on at the same time. Below is the solution so far (CONTEXT) \
and the parts as they will be written (PARTS). Write for each part one or two sentences that tell the worker what to do and \
by which method. Use nothing but what CONTEXT says, and give no result of any part away.

Answer with JSON only: a list of {count} strings.

CONTEXT:
{context}

PARTS:
{parts}
"""

_JSON = re.compile(r"[\[{].*[\]}]", re.DOTALL)
_TAG = re.compile(rf"</?(?:{'|'.join(TAGS)})>")


class Trajectory(NamedTuple):
    """A question and its sequential response."""

    prompt: str
    response: str


@dataclass
class Annotated:
    """The trajectories that passed, and how many things of each kind were left out on the way."""

    kept: list[Trajectory] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


class Cut(NamedTuple):
    """A block: its threads as [first, last) lines, which follow each other without a gap."""

    threads: tuple[tuple[int, int], ...]


def annotate(
    trajectories: Sequence[Trajectory],
    ask: Ask,
    *,
    least_saved: int = LEAST_SAVED["script"],
    need_block: bool = True,
    answer: Callable[[str], str | None] | None = None,
) -> Annotated:
    """All five steps. `answer` reads an answer out of a response; what changes it is left out (`answer changed`)."""
    found = Annotated()
    sources = [one for one in trajectories if not _TAG.search(one.response)]
    found.left_out["has tags already"] += len(trajectories) - len(sources)
    lines = [one.response.splitlines(keepends=True) for one in sources]
    replies = ask([GROUP.format(lines=numbered(text)) for text in lines])
    cuts = [
        cut(groups(reply, len(text), found.left_out), text, least_saved, found.left_out)
        for reply, text in zip(replies, lines, strict=True)
    ]
    threads = _edited(lines, cuts, ask, found.left_out)
    outlines = _outlined(lines, cuts, threads, ask, found.left_out)
    for one, text, blocks, parts, plans in zip(sources, lines, cuts, threads, outlines, strict=True):
        response = assemble(text, blocks, parts, plans)
        report = check(response, spacing="canonical", need_block=need_block, empty_threads=False)
        if report.problems:
            found.left_out[f"format: {report.problems[0].code}"] += 1
        elif answer is not None and answer(response) != answer(one.response):
            found.left_out["answer changed"] += 1
        else:
            found.kept.append(Trajectory(one.prompt, response))
    found.left_out += Counter()  # forgets what never happened
    return found


def numbered(lines: Sequence[str]) -> str:
    """Lines with their numbers from 1."""
    return "\n".join(f"{number}: {line.rstrip()}" for number, line in enumerate(lines, 1))


def read_json(reply: str) -> Any:
    """The JSON in a reply, which may stand between other words; None where there is none."""
    if not (found := _JSON.search(reply)):
        return None
    try:
        return json.loads(found[0])
    except (ValueError, RecursionError):
        return None


def groups(reply: str, lines: int, left_out: Counter[str]) -> list[Cut]:
    """Step 1's blocks that fit the text: line ranges in rising order, without gaps within a block or overlaps."""
    found = read_json(reply)
    blocks = found.get("blocks") if isinstance(found, dict) else None
    if not isinstance(blocks, list):
        left_out["groups: no JSON"] += 1
        return []
    cuts, free = [], 1
    for block in blocks:
        spans = block.get("threads") if isinstance(block, dict) else None
        if not isinstance(spans, list) or not 2 <= len(spans) <= MOST_OUTLINES or not all(map(_is_span, spans)):
            left_out["groups: malformed"] += 1
            continue
        starts, ends = [span[0] for span in spans], [span[1] for span in spans]
        joined = starts[0] >= free and ends[-1] <= lines and all(a <= b for a, b in spans)
        if not joined or any(b + 1 != a for b, a in zip(ends, starts[1:], strict=False)):
            left_out["groups: lines do not fit"] += 1
            continue
        cuts.append(Cut(tuple((a - 1, b) for a, b in spans)))
        free = ends[-1] + 1
    return cuts


def cut(blocks: Sequence[Cut], lines: Sequence[str], least_saved: int, left_out: Counter[str]) -> list[Cut]:
    """Step 2: the blocks in which all threads but the longest have at least `least_saved` characters together."""
    kept = []
    for block in blocks:
        sizes = [len("".join(lines[a:b])) for a, b in block.threads]
        if sum(sizes) - max(sizes) < least_saved:
            left_out["blocks: too little saved"] += 1
        else:
            kept.append(block)
    return kept


def replaced(text: str, reply: str, left_out: Counter[str]) -> str:
    """Step 3's replacements carried out in their order; each must be found exactly once and bring no tag in."""
    edits = read_json(reply)
    if not isinstance(edits, list):
        left_out["edits: no JSON"] += 1
        return text
    for edit in edits:
        source, target = (edit.get("src"), edit.get("dst")) if isinstance(edit, dict) else (None, None)
        if not isinstance(source, str) or not isinstance(target, str) or not source or _TAG.search(target):
            left_out["edits: malformed"] += 1
        elif text.count(source) != 1:
            left_out["edits: not found once"] += 1
        else:
            text = text.replace(source, target)
    return text


def plans(reply: str, count: int, left_out: Counter[str]) -> list[str] | None:
    """Step 4's outlines on one line each; None where they are not as many as the threads."""
    found = read_json(reply)
    if not isinstance(found, list) or len(found) != count or not all(isinstance(plan, str) for plan in found):
        left_out["outlines: malformed"] += 1
        return None
    return [" ".join(plan.split()) for plan in found]


def assemble(
    lines: Sequence[str],
    blocks: Sequence[Cut],
    threads: Sequence[Sequence[str]],
    outlines: Sequence[Sequence[str] | None],
) -> str:
    """The response with its blocks; a block without outlines stays in sequence, as it was."""
    text, done = "", 0
    for block, parts, planned in zip(blocks, threads, outlines, strict=True):
        if planned is None:
            continue
        text += "".join(lines[done : block.threads[0][0]])
        text += render_block([f" {plan}" for plan in planned], [f" {part.strip()}\n" for part in parts]) + "\n"
        done = block.threads[-1][1]
    return text + "".join(lines[done:])


# --- inside ----------------------------------------------------------------------------------------------------------


def _is_span(span: Any) -> bool:
    return isinstance(span, list) and len(span) == 2 and all(type(number) is int for number in span)


def _edited(
    lines: Sequence[Sequence[str]], cuts: Sequence[Sequence[Cut]], ask: Ask, left_out: Counter[str]
) -> list[list[list[str]]]:
    """The threads' texts [trajectory][block][thread] after step 3; all threads are asked for in one call."""
    raw = [
        [["".join(text[a:b]) for a, b in block.threads] for block in blocks]
        for text, blocks in zip(lines, cuts, strict=True)
    ]
    asked = []
    for text, blocks, parts in zip(lines, cuts, raw, strict=True):
        for block, threads in zip(blocks, parts, strict=True):
            context = "".join(text[: block.threads[0][0]])
            for place, notes in enumerate(threads):
                hidden = "".join(threads[:place] + threads[place + 1 :])
                asked.append(EDIT.format(context=context, hidden=hidden, notes=notes))
    replies = iter(ask(asked) if asked else [])
    return [[[replaced(notes, next(replies), left_out) for notes in threads] for threads in parts] for parts in raw]


def _outlined(
    lines: Sequence[Sequence[str]],
    cuts: Sequence[Sequence[Cut]],
    threads: Sequence[Sequence[Sequence[str]]],
    ask: Ask,
    left_out: Counter[str],
) -> list[list[list[str] | None]]:
    """The outlines [trajectory][block][thread] of step 4; all blocks are asked for in one call."""
    asked = []
    for text, blocks, parts in zip(lines, cuts, threads, strict=True):
        for block, notes in zip(blocks, parts, strict=True):
            context = "".join(text[: block.threads[0][0]])
            shown = "\n".join(f"[{number}] {note.strip()}" for number, note in enumerate(notes, 1))
            asked.append(OUTLINE.format(count=len(notes), context=context, parts=shown))
    replies = iter(ask(asked) if asked else [])
    return [[plans(next(replies), len(block.threads), left_out) for block in blocks] for blocks in cuts]
