"""The bridge to lm-eval: text comes from our call, accuracy from lm-eval, costs from both joined."""

from __future__ import annotations

import socket
import time

import numpy as np
import pandas as pd
import pytest

from tycho import records
from tycho.errors import TychoError
from tycho.harness import (
    Completion,
    Options,
    common_items,
    load_served,
    make_items,
    measure,
    served_rooms,
    written_answer,
)

ITEMS = make_items([f"{number} doubled is" for number in range(30)], [str(2 * number) for number in range(30)])


def doubling(prompts: list[str], options: Options) -> list[Completion]:
    """Doubles the first number, but for every third; costs follow from the number."""
    found = []
    for prompt in prompts:
        number = int(prompt.split()[0])
        for turn in range(options.n):
            wrong = (number + turn) % 3 == 0
            found.append(Completion(f" {2 * number + wrong}. ### more", number, turn, number + 1, 100.0 * number))
    return found


def first_word(text: str) -> str:
    return text.split()[0].rstrip(".")


def run(complete=doubling, items=ITEMS, **options) -> pd.DataFrame:
    return measure(complete, items, task="doubling", answer=first_word, most=8, **options)


def test_rows_are_records_with_costs_and_lm_evals_accuracy():
    frame = run(options=Options(until=("###",)))
    kept = records.tidy("samples", frame, scale="smoke", method="m", arm="a", task="t", seed=0)
    assert len(kept) == 30 and list(kept.item) == list(ITEMS.item)
    assert kept.response[4] == " 8. " and kept.answer[4] == "8" and kept.prompt[4] == "4 doubled is"
    assert kept.correct.tolist() == [number % 3 != 0 for number in range(30)]
    assert kept.generated_tokens.tolist() == list(range(30)) and kept.flops[3] == 300.0
    assert kept.forward_passes[29] == 30 and kept.sequential_tokens[29] == 0
    theirs = frame.attrs["lm_eval"]
    assert theirs["accuracy"] == pytest.approx(kept.correct.mean()) and theirs["items"] == 30
    assert theirs["stderr"] == pytest.approx(np.std(kept.correct, ddof=1) / np.sqrt(30))


def test_an_edited_prompt_changes_its_answer_and_no_other():
    edited = ITEMS.copy()
    edited.loc[7, "prompt"] = "100 doubled is"
    before, after = run(), run(items=edited)
    assert after.answer[7] == "200" and not after.correct[7] and before.correct[7]
    rest = [row for row in range(30) if row != 7]
    pd.testing.assert_frame_equal(before.loc[rest], after.loc[rest])


def test_options_reach_the_call_and_all_prompts_come_at_once():
    seen = []

    def complete(prompts, options):
        seen.append((prompts, options))
        return doubling(prompts, options)

    asked = Options(until=("###", "\n"), temperature=0.7, top_p=0.9, top_k=5, seed=11, n=2)
    run(complete, options=asked)
    assert seen == [(ITEMS.prompt.tolist(), Options(8, ("###", "\n"), 0.7, 0.9, 5, 11, 2))]


def test_repeats_are_rows_of_their_own_and_lm_eval_averages_them():
    frame = run(options=Options(n=3))
    assert len(frame) == 90 and frame.item.tolist() == [item for item in ITEMS.item for _ in range(3)]
    assert frame.sequential_tokens.tolist() == [0, 1, 2] * 30
    assert frame.groupby("item").correct.sum().eq(2).all()
    assert frame.attrs["lm_eval"]["accuracy"] == pytest.approx(2 / 3) and frame.attrs["lm_eval"]["stderr"] == 0
    assert frame.attrs["lm_eval"]["items"] == 30


def test_correctness_is_the_callers():
    frame = run(correct=lambda answer, target: abs(int(answer) - int(target)) <= 1)
    assert frame.correct.all() and frame.attrs["lm_eval"]["accuracy"] == 1.0


def test_no_answer_is_wrong_and_empty():
    frame = measure(doubling, ITEMS, task="t", answer=lambda text: None, most=8)
    assert not frame.correct.any() and set(frame.answer) == {""}


def test_texts_arrive_as_they_are():
    """Dates, numbers, templates and spaces are texts like any other; nothing is rendered or stripped."""
    odd = ["2020-01-01 00:00:00", "{{ 1 + 1 }}", " two\n\nlines\n", "[1, 2]", "007", "prompt", "ünï→\u2028x", ""]
    items = make_items(odd, odd[::-1])
    frame = measure(
        lambda prompts, options: [Completion(prompt, 1, 1, 1, 1.0) for prompt in prompts],
        items, task="odd", answer=str, most=1,
    )  # fmt: skip
    assert frame.prompt.tolist() == odd and frame.response.tolist() == odd and frame.target.tolist() == odd[::-1]


def test_one_item_has_no_standard_error():
    assert np.isnan(run(items=ITEMS[:1]).attrs["lm_eval"]["stderr"])


def test_a_call_is_cheap_quiet_and_needs_no_network(monkeypatch, capfd, tmp_path):
    import datasets

    run()  # the import
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection was opened"))
    capfd.readouterr()
    began = time.process_time()
    frame = run()
    assert time.process_time() - began < 1.0
    assert capfd.readouterr() == ("", "")
    assert datasets.is_progress_bar_enabled() and len(frame) == 30


def test_equal_calls_give_equal_rows():
    pd.testing.assert_frame_equal(run(), run())


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (ITEMS.drop(columns="target"), "lack the columns ['target']"),
        (ITEMS[:0], "has no items"),
        (pd.concat([ITEMS, ITEMS[:1]]), "names an item twice"),
        (ITEMS.assign(target=range(30)), "target must be text"),
    ],
)
def test_items_that_make_no_task_are_refused(items, words):
    with pytest.raises(TychoError, match="doubling") as raised:
        run(items=items)
    assert words in str(raised.value)


def test_a_wrong_number_of_completions_is_refused():
    with pytest.raises(TychoError, match="29 completions came back for 30 prompts"):
        run(lambda prompts, options: doubling(prompts, options)[1:])
    with pytest.raises(TychoError, match="30 completions came back for 30 prompts with n=2: 60 are wanted"):
        run(lambda prompts, options: doubling(prompts, Options()), options=Options(n=2))
    with pytest.raises(TychoError, match="a Completion with text is wanted"):
        run(lambda prompts, options: ["text"] * len(prompts))


def test_log_likelihoods_are_served_or_refused():
    from lm_eval.api.instance import Instance

    from tycho.evaluation.bridge import Bridge

    requests = [Instance("loglikelihood", {}, ("a", " b"), 0), Instance("loglikelihood", {}, ("a", " long"), 1)]
    with pytest.raises(TychoError, match="gives no log-likelihoods"):
        Bridge(doubling).loglikelihood(requests)

    class Scoring:
        __call__ = staticmethod(doubling)

        def loglikelihood(self, pairs):
            return [(-len(continuation), False) for _, continuation in pairs]

    assert Bridge(Scoring()).loglikelihood(requests) == [(-2.0, False), (-5.0, False)]


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"until": "\n"}, Options(until=("\n",))),
        ({"until": ["a", ""], "max_new_tokens": 7, "do_sample": False, "temperature": 0.5}, Options(7, ("a",))),
        ({"do_sample": True}, Options(temperature=1.0)),
        ({"temperature": 0.6, "top_p": 0.95, "num_beams": 1, "max_gen_toks": "9"}, Options(9, (), 0.6, 0.95)),
    ],
)
def test_generation_arguments_of_lm_eval(given, options):
    from tycho.evaluation.bridge import options_of

    assert options_of(given) == options


def test_generation_arguments_nobody_can_follow_are_refused():
    from tycho.evaluation.bridge import options_of

    with pytest.raises(TychoError, match=r"\['num_beams', 'penalty'\] are not known"):
        options_of({"num_beams": 4, "penalty": 1.0})


def test_rooms_that_serve_are_found_without_an_import(rooms):
    rooms.write("loud", serve="raise RuntimeError('imported')")
    rooms.write("quiet")
    assert list(served_rooms()) == ["loud"]
    with pytest.raises(TychoError, match="unknown served method 'lout': did you mean 'loud'"):
        load_served("lout", "folder")
    with pytest.raises(RuntimeError, match="imported"):
        load_served("loud", "folder")
    rooms.write("strict", serve="def load(pretrained, *, device, window=1): return pretrained, device, window")
    assert load_served("strict", "folder", window=3) == ("folder", "cpu", 3)
    with pytest.raises(TychoError, match=r"unexpected keyword argument 'windov'.*window=1"):
        load_served("strict", "folder", windov=3)


@pytest.mark.parametrize("task", ["graphs", "products-verbose"])
def test_common_items_read_as_the_task_writes_them(task):
    items = common_items(task, 20)
    again = common_items(task, 10)
    assert items.item.is_unique and items.iloc[:10].equals(again)
    assert items.target.str.fullmatch(r"\d+").all()
    if task == "graphs":
        for prompt, target in zip(items.prompt, items.target, strict=True):
            edges = {tuple(word.split(">")) for word in prompt.split() if ">" in word}
            question = prompt.partition("[Q]")[2].split()
            reached, frontier = {question[-1]}, [question[-1]]
            while frontier:
                node = frontier.pop()
                new = [end for start, end in edges if start == node and end not in reached]
                reached, frontier = reached | set(new), frontier + new
            assert target in question[:2] and target in reached and not (set(question[:2]) - {target}) & reached


def test_the_written_answer():
    assert written_answer("1 2 [A] 3 <eos>") == "3"
    assert written_answer("[A] 1 [A] 4") == "4"
    assert written_answer("1 2 3") == "" and written_answer("1 [A]") == ""
