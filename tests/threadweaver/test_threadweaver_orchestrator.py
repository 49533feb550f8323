"""The state machine beside an engine that knows a finished trajectory, and beside engines that write nonsense."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trajectories import soup, trajectories, words

from methods.threadweaver.format import render_block
from methods.threadweaver.orchestrator import Completion, Rollout, units_of, weave

Made = tuple[str, str, list[list[str]]]


class Scribe:
    """Continues known trajectories: each context must be a prefix of one, or open one of its threads."""

    def __init__(self, made: Sequence[Made]) -> None:
        self.made = {prompt: (text, blocks) for prompt, text, blocks in made}
        self.calls: list[tuple[str, list[str]]] = []

    def __call__(self, prompts: Sequence[str], *, stop: str) -> list[Completion]:
        self.calls.append((stop, list(prompts)))
        return [self.reply(context, stop) for context in prompts]

    def reply(self, context: str, stop: str) -> Completion:
        prompt = next(known for known in self.made if context.startswith(known))
        (text, blocks), response = self.made[prompt], context[len(prompt) :]
        if opened := re.search(r"\n<Thread>\n(\d+):$", response):
            rest = blocks[response.count("</Parallel>")][int(opened[1]) - 1] + "</Thread>"
        else:
            assert text.startswith(response)
            rest = text[len(response) :]
        said, found, _ = rest.partition(stop)
        return Completion(said + found, len(said) + 1, "stop" if found else "eos")


@given(trajectories(), st.sampled_from(["orchestrator", "model"]))
def test_the_machine_writes_the_trajectory_and_asks_for_its_units(made: Made, closing: str) -> None:
    prompt, text, blocks = made
    (rollout,) = weave([prompt], Scribe([made]), closing=closing)
    assert rollout.text == text and rollout.ended == "eos" and rollout.forks == len(blocks) and not rollout.notes
    *split, whole = units_of(prompt, text, closing)
    assert [unit._replace(tokens=0) for unit in rollout.units] == split
    assert (whole.context, whole.completion, whole.kind) == (prompt, text, "whole")


@given(trajectories())
def test_tokens_on_the_critical_path(made: Made) -> None:
    """Generated: everything but the injected headers and closing tags. The path has one thread a fork, the longest."""
    prompt, _, blocks = made
    (rollout,) = weave([prompt], Scribe([made]))
    sequence = sum(len(u.completion.removesuffix("</Outlines>")) + 1 for u in rollout.units if u.kind == "sequence")
    assert rollout.sequential_tokens == sequence + sum(max(map(len, block)) + 1 for block in blocks)
    assert rollout.generated_tokens == sequence + sum(len(thread) + 1 for block in blocks for thread in block)


def many() -> list[Made]:
    found = []
    for place, sizes in enumerate([(), (2,), (3, 1), (1, 4, 2)]):
        blocks = [[f"t{place}{i}{j}" for j in range(size)] for i, size in enumerate(sizes)]
        text = "s" + "m".join(render_block(["o"] * len(block), block) for block in blocks) + "e"
        found.append((f"p{place}?", text, blocks))
    return found


@pytest.mark.parametrize("closing", ["orchestrator", "model"])
def test_one_batch_is_one_by_one_in_two_calls_a_round(closing: str) -> None:
    made = many()
    scribe = Scribe(made)
    prompts = [prompt for prompt, _, _ in made]
    together = weave(prompts, scribe, closing=closing)
    assert together == [weave([prompt], Scribe(made), closing=closing)[0] for prompt in prompts]
    assert [stop for stop, _ in scribe.calls] == ["</Outlines>", "</Thread>"] * 3 + ["</Outlines>"]
    assert len(scribe.calls[1][1]) == 2 + 3 + 1


def test_threads_never_see_each_other() -> None:
    """Whatever one thread says, its siblings are asked the same; only the join differs."""
    made = ("p?", "s" + render_block([" a", " b", " c"], ["one", "two", "three"]) + "e", [["one", "two", "three"]])
    other = ("p?", made[1].replace("two", "SECRET"), [["one", "SECRET", "three"]])
    first, second = Scribe([made]), Scribe([other])
    weave(["p?"], first), weave(["p?"], second)
    assert first.calls[1] == second.calls[1]
    assert all("SECRET" not in context for context in second.calls[1][1])
    assert "SECRET" in second.calls[2][1][0]


def scripted(*replies: Completion):
    """An engine that gives these replies in turn."""
    left = list(replies)
    return lambda prompts, *, stop: [left.pop(0) for _ in prompts]


def plan(*numbers: str) -> Completion:
    outlines = "".join(f"<Outline>{number}: o</Outline>\n" for number in numbers)
    return Completion(f"<Parallel>\n<Outlines>\n{outlines}</Outlines>", 9, "stop")


def said(text: str, finish: str = "stop", tokens: int = 3) -> Completion:
    return Completion(text, tokens, finish)


def test_the_stop_string_may_be_in_the_text_or_not() -> None:
    with_it = scripted(plan("1"), said("a</Thread>"), said("e", "eos"))
    without = scripted(Completion(plan("1").text.removesuffix("</Outlines>"), 9, "stop"), said("a"), said("e", "eos"))
    assert weave(["p"], with_it) == weave(["p"], without)


def test_who_closes_the_block_is_the_papers_orchestrator_or_the_codes_model() -> None:
    paper = weave(["p"], scripted(plan("1"), said("a"), said("e", "eos")))[0]
    code = weave(["p"], scripted(plan("1"), said("a"), said("</Parallel>e", "eos")), closing="model")[0]
    assert paper.text == code.text
    assert paper.units[-1].context == code.units[-1].context + "</Parallel>"


def test_a_number_planned_twice_is_spawned_once_or_as_often() -> None:
    once = weave(["p"], scripted(plan("1", "2", "1"), said("a"), said("b"), said("e", "eos")))[0]
    assert once.text.count("<Thread>") == 2 and once.notes == ("an outline number occurs twice: spawned once",)
    replies = (plan("1", "2", "1"), said("a"), said("b"), said("c", tokens=8), said("e", "eos"))
    twice = weave(["p"], scripted(*replies), duplicates="keep")[0]
    assert twice.text.count("<Thread>\n1:") == 2 and twice.sequential_tokens == 9 + 8 + 3


@pytest.mark.parametrize("finish", ["eos", "length", "abort"])
@pytest.mark.parametrize("closing", ["orchestrator", "model"])
def test_an_unfinished_thread_closes_the_block_and_ends_the_trajectory(finish: str, closing: str) -> None:
    (rollout,) = weave(["p"], scripted(plan("1", "2"), said("a", finish), said("b")), closing=closing)
    assert rollout.ended == "unfinished_thread"
    assert rollout.text.endswith("\n<Thread>\n1:a\n</Thread><Thread>\n2:b</Thread>\n</Parallel>")
    assert [unit.ends for unit in rollout.units] == [False, finish == "eos", False]


def test_outlines_without_numbers_stay_sequential() -> None:
    replies = [said("x</Outlines>"), said("<Outlines><Outline>a</Outline></Outlines>"), said("y", "length")]
    (rollout,) = weave(["p"], scripted(*replies))
    assert rollout.text == "x</Outlines><Outlines><Outline>a</Outline></Outlines>y" and rollout.ended == "length"
    assert rollout.forks == 0 and len(rollout.notes) == 2 and rollout.sequential_tokens == 9


def test_dotted_numbers_are_spawned_under_their_name() -> None:
    (rollout,) = weave(["p"], scripted(plan("1.1", "1.2"), said("a"), said("b"), said("e", "eos")))
    assert [unit.number for unit in rollout.units] == ["", "1.1", "1.2", ""]
    assert "<Thread>\n1.2:b</Thread>" in rollout.text


def test_rounds_are_limited() -> None:
    def forever(prompts: Sequence[str], *, stop: str) -> list[Completion]:
        return [plan("1") if stop == "</Outlines>" else said("a") for _ in prompts]

    (rollout,) = weave(["p"], forever, rounds=3)
    assert rollout.ended == "rounds" and rollout.forks == 3 and weave([], forever) == []


def test_respawned_threads_cost_their_tokens_on_the_path_too() -> None:
    replies = [plan("1", "2"), said("bad", "abort", 5), said("b", tokens=6), said("good", tokens=4), said("e", "eos")]
    (rollout,) = weave(["p"], scripted(*replies), respawn=lambda reply: reply.finish == "abort")
    assert "1:good</Thread>" in rollout.text and "bad" not in rollout.text and rollout.ended == "eos"
    assert rollout.generated_tokens == 9 + 5 + 6 + 4 + 3 and rollout.sequential_tokens == 9 + (5 + 4) + 3
    assert [unit.attempt for unit in rollout.units] == [0, 0, 0, 1, 0]


def test_the_last_attempt_may_have_an_engine_of_its_own() -> None:
    replies = [plan("1", "2"), said("bad", "abort"), said("b"), said("bad again", "abort"), said("e", "eos")]
    rule = {"respawn": lambda reply: reply.finish == "abort", "respawns": 2}
    (rollout,) = weave(["p"], scripted(*replies), last=scripted(said("good")), **rule)
    assert "1:good</Thread>" in rollout.text and rollout.ended == "eos"
    assert [unit.attempt for unit in rollout.units] == [0, 0, 0, 1, 2, 0]
    (alone,) = weave(["p"], scripted(plan("1"), said("a"), said("e", "eos")), last=scripted())
    assert alone.ended == "eos"  # without a rule there are no attempts, and no last one


def test_an_engine_that_loses_a_reply_is_refused() -> None:
    with pytest.raises(ValueError, match="0 completions for 1 prompts"):
        weave(["p"], lambda prompts, *, stop: [])


@settings(max_examples=150)
@given(st.data(), st.sampled_from(["orchestrator", "model"]), st.sampled_from(["remove", "keep"]))
def test_no_nonsense_from_the_engine_raises(data: st.DataObject, closing: str, duplicates: str) -> None:
    outline = words.map(lambda text: f"<Outlines><Outline>1:{text}</Outline><Outline>2:</Outline>")
    reply = st.builds(
        Completion,
        soup.map(lambda parts: "".join(parts)[:200]) | outline,
        st.integers(0, 9),
        st.sampled_from(["stop", "eos", "length", "abort"]),
    )

    def engine(prompts: Sequence[str], *, stop: str) -> list[Completion]:
        return [data.draw(reply) for _ in prompts]

    for rollout in weave(["p", "q"], engine, rounds=3, closing=closing, duplicates=duplicates):
        assert isinstance(rollout, Rollout) and rollout.ended
        assert rollout.sequential_tokens <= rollout.generated_tokens


def test_units_of_refuses_what_the_machine_would_not_have_asked() -> None:
    good = render_block(["a"], ["b"])
    with pytest.raises(ValueError, match="white space between sibling"):
        units_of("p", render_block(["a", "b"], ["c", "d"]).replace("</Thread><", "</Thread> <"))
    with pytest.raises(ValueError, match="outside the blocks"):
        units_of("p", good + "</Outlines>")
