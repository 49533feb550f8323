"""Pools of traces: where questions come from, which model answers them, and what is kept of each trace."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from methods.deepconf.answers import canonical, codes, equal, finder
from methods.deepconf.collect import Kept
from methods.deepconf.confidence import Ragged
from methods.deepconf.tasks import CHAIN, GROUND, SUMS, trained_task
from methods.deepconf.traces import Traces
from tycho.adapter import Run
from tycho.engines import Engine, Settings, connect
from tycho.errors import TychoError
from tycho.harness import make_items


@dataclass
class Problem:
    """Questions with their verifier. `find` reads a text's answer, `key` merges spellings, `right` checks."""

    items: pd.DataFrame  # item, prompt, target
    find: Callable[[str], str | None]
    key: Callable[[str], str] | None
    right: Callable[[str, str], bool]
    stop: tuple[str, ...] = ()


@dataclass
class Pool:
    """`size` traces of every question, question by question; codes [Q, size] (-1: no answer), `right` [Q] the code of
    the right answer (-1 where no trace gives it)."""

    problem: Problem
    size: int
    confidences: Ragged
    codes: np.ndarray
    spelled: list[list[str]]
    right: list[np.ndarray]
    texts: list[str]
    answers: list[str | None]

    def question(self, place: int) -> tuple[Ragged, np.ndarray]:
        """A question's confidences and codes."""
        return self.confidences.take(np.arange(place * self.size, (place + 1) * self.size)), self.codes[place]

    def traces(self) -> Traces:
        """The pool as a trace file holds it."""
        items = self.problem.items.loc[np.repeat(np.arange(len(self.codes)), self.size)]
        frame = pd.DataFrame(
            {
                "question": items["item"].to_numpy(),
                "text": self.texts,
                "answer": self.answers,
                "target": items["target"].to_numpy(),
                "tokens": self.confidences.lengths,
            }
        )
        return Traces(frame, self.confidences)


def shape(modulus: int = 19) -> Any:
    """Seven numbers multiplied mod a prime, any two neighbours next."""
    from tycho.tasks.arithmetic import Shape

    return Shape(modulus=modulus, groups=1, numbers=7)


def problem(run: Run) -> Problem:
    """The task's questions; the same for all seeds."""
    task, config = run.key.task, run.config
    if trained_task(task):
        return symbolic(config.questions, config.modulus)
    if task in GROUND:
        return ground(task, config.questions)
    if task == SUMS:
        return sums(config.questions)
    return published(task, config.data, config.questions, config.answers, config.asked)


def ground(task: str, count: int) -> Problem:
    """The first test items of a common task, which all language methods answer."""
    from tycho.harness import common_items, written_answer

    return Problem(common_items(task, count), lambda text: written_answer(text) or None, None, str.__eq__)


def symbolic(count: int, modulus: int = 19) -> Problem:
    from tycho.harness import written_answer
    from tycho.tasks import arithmetic

    words = arithmetic.vocabulary(shape(modulus))
    made = arithmetic.generate(count, shape(modulus), zlib.crc32(b"deepconf/test"))
    examples = arithmetic.symbols(made, words, "rewriting")
    prompts = [
        words.write(row[:n].tolist()) for row, n in zip(examples.prompt, examples.prompt_length.tolist(), strict=True)
    ]
    items = make_items(prompts, [str(answer) for answer in made.answer])
    return Problem(items, lambda text: written_answer(text) or None, None, str.__eq__)


def sums(count: int, shots: int = 4) -> Problem:
    """Two one-digit numbers added or subtracted (reasoning-gym's chain_sum and its verifier), after solved examples."""
    import reasoning_gym

    options = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    solved = reasoning_gym.create_dataset("chain_sum", size=shots, seed=1, **options)
    asked = reasoning_gym.create_dataset("chain_sum", size=5 * count, seed=7, **options)
    lead = "".join(f"Q: {entry['question']}\nA: {entry['answer']}\n\n" for entry in solved)
    different = list({entry["question"]: entry for entry in asked}.values())[:count]
    items = make_items([f"{lead}Q: {entry['question']}\nA:" for entry in different], [e["answer"] for e in different])
    return Problem(
        items, finder("number"), canonical, lambda answer, target: asked.score_answer(answer, {"answer": target}) >= 1,
        ("\n",),
    )  # fmt: skip


def published(task: str, source: str, count: int, answers: str, asked: str = "") -> Problem:
    """Rows of `question` (or `problem`) and `answer`, or GPQA's, from a file or the hub; `asked` follows each question."""
    from methods.deepconf.published import SETS
    from tycho.tasks.published import fetch

    if not source:
        at = f"hub://{SETS[task].hub}@COMMIT/FILE" if task in SETS else "hub://owner/name@COMMIT/FILE"
        raise TychoError(
            f"task {task} needs its questions: set data=FILE.jsonl or data={at} "
            "(rows with `question` and `answer`; all 40 digits of the commit)"
        )
    try:
        rows = rows_of(fetch(source))
        pairs = [question_of(row) for row in rows[:count]]
    except (ValueError, KeyError, AttributeError) as error:
        raise TychoError(f"{source} is not JSON lines with `question` and `answer`: {error}") from error
    items = make_items([question + asked for question, _ in pairs], [answer for _, answer in pairs])
    return Problem(items, finder(answers), canonical, equal)


def question_of(row: dict[str, Any]) -> tuple[str, str]:
    """(question, answer) of a row. GPQA's has its right choice first: its four are shown in an order that follows from
    the question, and the answer is a letter."""
    if "Correct Answer" not in row:
        return str(row.get("question") or row["problem"]), str(row["answer"])
    question, names = str(row["Question"]).strip(), ["Correct Answer", *(f"Incorrect Answer {n}" for n in (1, 2, 3))]
    order = np.random.default_rng(zlib.crc32(question.encode())).permutation(4).tolist()
    shown = [f"{letter}) {str(row[names[place]]).strip()}" for letter, place in zip("ABCD", order, strict=True)]
    return "\n".join([question, "", *shown]), "ABCD"[order.index(0)]


def rows_of(path: Path) -> list[Any]:
    """A file's rows. Raises ValueError where it is not what its name says."""
    if path.suffix in (".parquet", ".csv"):
        return (pd.read_parquet if path.suffix == ".parquet" else pd.read_csv)(path).to_dict("records")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def engine(run: Run) -> Engine:
    """The model that answers: the one this job's `model` arm trained, or what the config names."""
    config, task = run.config, run.key.task
    if not trained_task(task) and task not in GROUND:
        source = config.model or ("smollm2" if task == SUMS else "")
        if not source:
            raise TychoError(f"task {task} needs a model: set model=URL of a server, a folder, or a hub id")
        if source.startswith("http"):
            return served(config, source)
        return connect(source, device=run.device, revision=config.revision, seed=run.seed("traces"), rows=config.rows)
    from tycho.engines.local import Local
    from tycho.lm import small
    from tycho.tasks import arithmetic

    model, tokenizer = small.load(run.inputs["model"].model, device=run.device)
    if task == CHAIN:  # only the first place may be merged: all traces of a question meet the same facts
        words = arithmetic.vocabulary(shape(config.modulus))
        places = [words[f"@{place}"] for place in range(1, shape(config.modulus).numbers - 1)]
        model.generation_config.suppress_tokens = places
    return Local(model.eval(), tokenizer, rows=config.rows, seed=run.seed("traces"))


def served(config: Any, url: str) -> Engine:
    """A chat server's model, asked with a system message where there is one."""
    from tycho.engines.server import Server

    class Chat(Server):
        def body(self, prompt: Any, settings: Settings) -> dict[str, Any]:
            body = super().body(prompt, settings)
            first = [{"role": "system", "content": config.system}] if config.system else []
            return body | {"messages": [*first, *body["messages"]]}

    extra = {"reasoning_effort": config.effort} if config.effort else {}
    return Chat(url, config.served, chat=True, extra=extra)


def settings(config: Any, stop: tuple[str, ...]) -> Settings:
    return Settings(config.most, config.temperature, config.top_k, config.top_p, stop, config.k)


def pool(problem: Problem, made: Sequence[Kept]) -> Pool:
    """The traces, as many a question, in the items' order. One that failed has neither answer nor confidences; one without
    confidences votes in the plain majority only."""
    size = len(made) // len(problem.items)
    answers = [None if one.error else problem.find(one.text) for one in made]
    found, spelled, right = [], [], []
    for place, target in enumerate(problem.items["target"].tolist()):
        own, words = codes(answers[place * size : (place + 1) * size], problem.key)
        found.append(own)
        spelled.append(words)
        right.append(np.array([problem.right(word, target) for word in words], dtype=bool))
    texts = [one.text for one in made]
    rows = Ragged.of([one.confidences for one in made])
    return Pool(problem, size, rows, np.stack(found), spelled, right, texts, answers)


def usable(pool: Pool, warmup: int) -> Pool:
    """The questions with fewer silent traces (without confidences) than a warm-up has, so that every order has a bar:
    what a server could not answer is left out, and what it has answered is kept."""
    silent = (pool.confidences.lengths.reshape(-1, pool.size) == 0).sum(axis=1)
    keep = np.flatnonzero(silent < warmup)
    if len(keep) == len(silent):
        return pool
    rows = (keep[:, None] * pool.size + np.arange(pool.size)).ravel()
    return Pool(
        replace(pool.problem, items=pool.problem.items.iloc[keep].reset_index(drop=True)),
        pool.size,
        pool.confidences.take(rows),
        pool.codes[keep],
        [pool.spelled[place] for place in keep],
        [pool.right[place] for place in keep],
        [pool.texts[row] for row in rows],
        [pool.answers[row] for row in rows],
    )
