"""The in-process engine under the state machine: batches, siblings, stops, and what an untrained model writes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from methods.deepconf.confidence import token_confidence
from methods.deepconf.online import StopRule
from methods.threadweaver.engine import Engine, Watch
from methods.threadweaver.format import check
from methods.threadweaver.metrics import critical_path
from methods.threadweaver.orchestrator import Completion, weave
from methods.threadweaver.serve import Remote, Weaver, delay, discarded, load
from methods.threadweaver.words import Words
from tycho.engines.server import Server
from tycho.errors import TychoError
from tycho.harness import Options
from tycho.lm import small
from tycho.lm.examples import left_padded
from tycho.lm.sampling import Sampling, generate
from tycho.lm.vocabulary import Vocabulary
from tycho.tasks import common

torch.set_num_threads(1)
WORDS = Words(Vocabulary((*common.THREADS, *map(str, range(5)))))
PROMPTS = ["1 2", "3", "4 4 1", "0 2 1 3", "1 2"]


def untrained(seed: int = 0, lean: float = 0.0):
    """A model that writes anything, tags among it; `lean` towards the words of a plan."""
    model = small.build(WORDS.vocabulary, layers=1, width=16, heads=2, context=160, seed=seed, tied=False).eval()
    for weight in model.parameters():
        weight.data.mul_(3) if weight.dim() > 1 else None
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(len(WORDS.vocabulary)))
    for word in ("<Outline>", "</Outlines>", "1:", "2:", "</Thread>"):
        model.lm_head.bias.data[WORDS.ids[word]] = lean
    return model


def engine(model, **changes) -> Engine:
    return Engine(model, WORDS, **{"most": 24, "sampling": Sampling(1.0), "seed": 5, **changes})


class Planner:
    """An engine whose first sequence of each prompt is a plan of two threads; the rest is the model's."""

    def __init__(self, inner: Engine) -> None:
        self.inner = inner

    def __call__(self, prompts, *, stop: str) -> list[Completion]:
        plan = "<Parallel><Outlines><Outline> 1:</Outline><Outline> 2:</Outline></Outlines>"
        fresh = [stop == "</Outlines>" and "<Outlines>" not in prompt for prompt in prompts]
        written = iter(self.inner([p for p, new in zip(prompts, fresh, strict=True) if not new], stop=stop))
        return [Completion(plan, 9, "stop") if new else next(written) for new in fresh]


def test_one_batch_writes_what_the_prompts_write_one_by_one() -> None:
    model = untrained()
    together = weave(PROMPTS, Planner(engine(model)), rounds=4)
    alone = Planner(engine(model))
    assert together == [weave([prompt], alone, rounds=4)[0] for prompt in PROMPTS]
    assert together == weave(PROMPTS, Planner(engine(model, batch=2)), rounds=4)
    assert together[0] != together[-1]  # the same prompt again draws other numbers
    assert together != weave(PROMPTS, Planner(engine(model, seed=6)), rounds=4)
    assert min(rollout.forks for rollout in together) > 0


def test_a_thread_does_not_know_how_many_siblings_run() -> None:
    context = "1 2<Outlines><Outline> 1:</Outline><Outline> 2:</Outline></Outlines>\n<Thread>\n"
    one, two = f"{context}1:", f"{context}2:"
    both = engine(untrained())([one, two], stop="</Thread>")
    assert both == [engine(untrained())([text], stop="</Thread>")[0] for text in (one, two)]
    assert both[::-1] == engine(untrained())([two, one], stop="</Thread>")


def test_what_an_untrained_model_writes_is_reported_and_never_raises() -> None:
    for seed in range(4):
        for rollout in weave(PROMPTS * 4, engine(untrained(seed, lean=2.0), seed=seed), rounds=5):
            check(rollout.text)
            path = critical_path(WORDS.encode(rollout.text), WORDS.tags)
            assert path.longest <= path.total and rollout.sequential_tokens <= rollout.generated_tokens
            assert sum(unit.tokens for unit in rollout.units) == rollout.generated_tokens


def test_a_context_leaves_what_room_the_models_positions_have() -> None:
    """It once had to leave room for `most` tokens: a search of 120 tokens in 192 positions was never answered."""
    model = untrained()
    model.lm_head.bias.data[[WORDS.end, WORDS.ids["</Thread>"]]] = -99.0
    prompts = [" ".join(["1"] * n) for n in (10, 136, 137, 150, 159, 160, 161, 0)]
    for watch in (None, Watch(-np.inf, 3, 4)):
        made = engine(model, watch=watch)
        replies = made(prompts, stop="</Thread>")
        assert [reply.tokens for reply in replies] == [24, 24, 24, 11, 2, 1, 0, 0]
        assert {reply.finish for reply in replies} == {"length"}
        alone = [engine(model, watch=watch) for _ in prompts]
        assert replies == [one([prompt], stop="</Thread>")[0] for one, prompt in zip(alone, prompts, strict=True)]
        assert made.lowest == pytest.approx([score for one in alone for score in one.lowest], rel=1e-6)
        assert len(made.lowest) == (6 if watch else 0)
        wide = engine(model, most=151, watch=watch)(prompts, stop="</Thread>")
        assert [reply.tokens for reply in wide] == [151, 25, 24, 11, 2, 1, 0, 0]
        assert all(long.text.startswith(reply.text) for long, reply in zip(wide, replies, strict=True))


def test_words_that_the_vocabulary_lacks_are_unknown() -> None:
    assert WORDS.encode("1 zebra<Thread>") == [WORDS.ids["1"], 2, WORDS.ids["<Thread>"]]


def test_a_watched_thread_stops_where_deepconfs_rule_would_have_stopped_it() -> None:
    """Beside the rule that runs token by token; its tokens are a prefix of what the thread writes unwatched."""
    model, prompts = untrained(lean=-2.0), [f"1 2 {n} {m}" for n in range(5) for m in range(5)]
    free = engine(model)
    plain = free(prompts, stop="</Thread>")
    ids, mask = left_padded([WORDS.encode(prompt) for prompt in prompts], 0)
    noise = engine(model)._noise(prompts)
    written = generate(
        model, ids, mask, most=24, stop=[WORDS.ids["</Thread>"], WORDS.end], sampling=Sampling(1.0), noise=noise, top_logprobs=4
    )  # fmt: skip
    lowest = engine(model, watch=Watch(-np.inf, 5, 4))
    assert lowest(prompts, stop="</Thread>") == plain and len(lowest.lowest) == len(prompts)
    bar = float(np.median(lowest.lowest))
    watched = engine(model, watch=Watch(bar, 5, 4))(prompts, stop="</Thread>")
    stopped = 0
    for row, (reply, whole) in enumerate(zip(watched, plain, strict=True)):
        rule, end = StopRule(bar, 5, 1), None
        for place in range(int(written.lengths[row])):
            if rule.push(token_confidence(written.top_logprobs[row, place : place + 1].numpy(), 4))[0]:
                end = place + 1
                break
        if end is None:
            assert reply == whole
        else:
            stopped += 1
            assert (reply.finish, reply.tokens) == ("abort", end) and whole.text.startswith(reply.text)
    assert 5 < stopped < len(prompts)
    assert engine(model, watch=Watch(np.inf, 5, 4))(prompts, stop="</Outlines>")[0].finish != "abort"


def test_thrown_away_attempts_cost_tokens_and_time() -> None:
    """With the machine's own count as a yardstick: decoded steps, all attempts at the longest thread among them."""
    model = untrained(lean=3.0)
    weaver = Weaver(model, WORDS, 24)
    watched = Planner(engine(model, watch=Watch(3.0, 2, 4)))
    rollouts = weave(PROMPTS * 6, watched, respawn=lambda reply: reply.finish == "abort", respawns=2)
    assert any(discarded(rollout) for rollout in rollouts)
    for rollout in rollouts:
        thrown = discarded(rollout)
        kept = sum(unit.tokens for unit in rollout.units) - sum(thrown.values())
        assert kept + sum(thrown.values()) == rollout.generated_tokens
        assert 0 <= delay(rollout) <= sum(thrown.values())
        found = weaver.completion(rollout)
        path = critical_path(WORDS.encode(rollout.text), WORDS.tags)
        ends = rollout.ended == "eos"
        assert found.generated_tokens == path.total + ends + sum(thrown.values())
        assert found.sequential_tokens == path.longest + ends + delay(rollout)
        assert found.flops > 0 and found.forward_passes == rollout.generated_tokens


def test_the_last_attempt_at_a_thread_is_not_watched() -> None:
    """A stop without another attempt would end the trajectory unanswered, whatever the thread would have written."""
    model = untrained(lean=3.0)
    model.lm_head.bias.data[WORDS.ids["<Outlines>"]] = 3.0
    strict = Weaver(model, WORDS, 24, watch=Watch(np.inf, 2, 4), respawns=1)
    rollouts = strict.roll(PROMPTS * 100, Options(temperature=1.0, seed=3))
    threads = [unit for rollout in rollouts for unit in rollout.units if unit.kind == "thread"]
    first, last = ([unit for unit in threads if unit.attempt == n] for n in (0, 1))
    assert len(first) >= len(last) > 20 and max(unit.tokens for unit in first) <= 2
    assert all(unit.completion.endswith("</Thread>") or unit.ends or unit.tokens == 24 for unit in last)
    assert max(unit.tokens for unit in last) > 2
    assert any(rollout.forks and rollout.ended == "eos" for rollout in rollouts)


def test_served_as_completions_in_the_order_of_the_prompts(tmp_path) -> None:
    small.save(
        small.build(WORDS.vocabulary, layers=1, width=16, heads=2, context=160), WORDS.vocabulary.tokenizer(), tmp_path
    )
    served = load(str(tmp_path), most=20)
    found = served(["1 2", "3"], Options(temperature=1.0, n=2, seed=1))
    assert len(found) == 4 and [rollout.prompt for rollout in served.rollouts] == ["1 2", "1 2", "3", "3"]
    cut = served(["1 2"], Options(until=("<",)))
    assert "<" not in cut[0].text
    plain = load(str(tmp_path), most=20, mode="plain")(["1 2"], Options())
    assert plain[0].sequential_tokens == plain[0].generated_tokens or "<Thread>" in plain[0].text
    with pytest.raises(TychoError, match="closing"):
        load(str(tmp_path), closing="nobody")
    words = Vocabulary(("1",))
    small.save(small.build(words, layers=1, width=8, heads=1), words.tokenizer(), tmp_path / "other")
    with pytest.raises(TychoError, match="no <Thread>"):
        load(str(tmp_path / "other"))


@pytest.fixture(scope="module")
def faulty():
    sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))
    from faulty import Faulty

    with Faulty() as server:
        yield server


def remote(url: str) -> Remote:
    return Remote(Server(url, "small", tries=2, pause=0.01, patience=0.5))


def test_over_a_server_as_an_lm_eval_model(faulty) -> None:
    found = load(faulty.url, model="small")(["plain 1", "plain 2"], Options(temperature=1.0, n=2, until=(" two",)))
    assert [completion.text for completion in found] == ["one"] * 4
    assert all(completion.generated_tokens == completion.sequential_tokens == 4 for completion in found)
    body = faulty.bodies[-1]
    assert body["stop"] == ["</Outlines>"] and body["temperature"] == 1.0 and "seed" not in body


def test_a_request_that_fails_ends_its_own_trajectory_only(faulty, caplog) -> None:
    """In the first round two of three fail; in the second the only request that is left does: the others stay."""
    model = remote(faulty.url)
    found = model(["dies", "500", "plain"], Options())
    assert [completion.text for completion in found] == ["one two", "", "one two three"]
    assert [rollout.ended for rollout in model.rollouts] == ["error", "error", "eos"]
    assert "2 requests failed" in caplog.text and "broke off in the middle" in caplog.text

    class Breaks(Server):
        """Stops at a plan, then is gone."""

        def body(self, prompt, settings):
            mode = "good" if settings.stop == ("</Outlines>",) and not prompt.endswith("</Outlines>") else "500"
            return super().body(
                f"{prompt.split()[0]} x" if prompt.startswith("plain") else f"{mode} {prompt}", settings
            )

    model = Remote(Breaks(faulty.url, "small", tries=1, patience=0.5))
    plain, broken = model(["plain", "go on"], Options())
    assert plain.text == "one two three" and broken.text == "one two three</Outlines>" and broken.generated_tokens == 4
    assert [rollout.ended for rollout in model.rollouts] == ["eos", "error"]


@pytest.mark.parametrize(
    ("mode", "says"),
    [("500", "answered 500"), ("429", "answered 429"), ("garbage", "no completion"), ("nothing", "cannot be reached"),
     ("empty", "an empty answer")],
)  # fmt: skip
def test_a_server_that_answers_nothing_of_use_is_one_line(faulty, mode: str, says: str) -> None:
    with pytest.raises(TychoError, match=says) as found:
        remote(faulty.url)([mode, mode], Options())
    assert "\n" not in str(found.value)
