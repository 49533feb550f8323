"""The room: rules over a pool against one question by hand, the shell command, the lm-eval model, the paper's settings."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from methods.deepconf import pools, rules
from methods.deepconf.analyse import dominated, summary
from methods.deepconf.collect import Kept, kept, opened, packed
from methods.deepconf.confidence import Ragged, paper_measures, score
from methods.deepconf.online import Policy, replay
from methods.deepconf.reanalyse import reanalyse, summarise
from methods.deepconf.traces import Traces, read_traces, write_traces
from methods.deepconf.voting import paper_rules, vote_all
from tycho.engines import Completion
from tycho.errors import TychoError
from tycho.harness import make_items
from tycho.sources import ROOT


def made_pool(questions: int = 4, size: int = 24, seed: int = 0) -> pools.Pool:
    """Traces whose confidence tells right from wrong."""
    rng = np.random.default_rng(seed)
    items = make_items([f"question {i}" for i in range(questions)], [str(i) for i in range(questions)])
    problem = pools.Problem(items, lambda text: text.strip() or None, None, str.__eq__)
    completions = []
    for place in range(questions):
        for _ in range(size):
            right = rng.random() < 0.4
            answer = str(place) if right else str(rng.choice([place + 1, place + 2]))
            length = int(rng.integers(4, 12))
            tops = -np.sort(rng.exponential(2.0 + right, (length, 3)), axis=1)
            text = answer if rng.random() < 0.9 else ""
            completions.append(Completion(text, length, "eos", (), tops))
    return pools.pool(problem, [kept(made, 3) for made in completions])


def lengths_only(text: str, lengths: np.ndarray) -> np.ndarray:
    """In place of FLOPs: the number of traces, with their tokens behind the point."""
    return (lengths > 0).sum(-1) + lengths.sum(-1) / 1e6


def test_rules_are_the_mathematics_question_by_question():
    pool = made_pool()
    policy = Policy(warmup=4, window=3)
    rng = np.random.default_rng(1)
    frame = rules.samples(pool, budget=16, resamples=5, policy=policy, windows=[1], rng=rng, flops=lengths_only)
    rng = np.random.default_rng(1)
    for place, item in enumerate(pool.problem.items.item):
        confidences, codes = pool.question(place)
        order = rules.orders(rng, 5, 16, pool.size)
        mine = frame[(frame.item == item) & (frame.setting == "")].set_index("variant")
        right = np.append(pool.right[place], False)
        scores = {n: s[order] for n, s in score(confidences, paper_measures(3)).items()}
        for name, outcome in vote_all(codes[order], scores, paper_rules(list(scores))).items():
            assert mine.loc[name, "score"] == right[outcome.answer].mean()
            spent = confidences.lengths[order].sum(axis=1).mean()
            assert mine.loc[name, "generated_tokens"] == round(spent)
            assert mine.loc[name, "flops"] == pytest.approx(16 + spent / 1e6)
        low = replay(confidences, codes, order, Policy(warmup=4, window=3, eta=10, tau=None))
        assert mine.loc["low", "score"] == right[low.outcome.answer].mean()
        assert mine.loc["low", "flops"] == pytest.approx(16 + low.tokens.mean() / 1e6)
        ended = replay(confidences, codes, order, Policy(warmup=4, window=3, eta=10))
        assert mine.loc["low+tau", "flops"] == pytest.approx(ended.traces.mean() + ended.tokens.mean() / 1e6)
        assert mine.loc["pass@1", "flops"] == pytest.approx(1 + confidences.lengths[order[:, 0]].mean() / 1e6)
        paid = [max(1, (np.cumsum(confidences.lengths[o]) <= t).sum()) for o, t in zip(order, low.tokens, strict=True)]
        assert np.floor(mine.loc["majority at equal tokens", "flops"] * 5 + 1e-2) == sum(paid)
        longest = [confidences.lengths[o][:n].max() for o, n in zip(order, paid, strict=True)]
        assert mine.loc["majority at equal tokens", "sequential_tokens"] == round(np.mean(longest))
        assert (
            mine.loc["low", "generated_tokens"] == round(low.tokens.mean()) <= mine.loc["majority", "generated_tokens"]
        )
        for ending in ("", "+tau"):
            assert mine.loc[f"random-stop{ending}", "generated_tokens"] == mine.loc[f"low{ending}", "generated_tokens"]
        list(rules.online(confidences, codes, order, policy, rng))  # the same draws, for the next question
    one = frame[frame.variant == "pass@1"]
    assert [text.strip() for text in one.response] == list(one.answer) and one.response.str.len().any()
    assert not frame[frame.variant != "pass@1"].response.any()
    assert set(frame.setting) == {"", "window=1"}
    assert (frame.sequential_tokens.dropna() <= frame.generated_tokens[frame.sequential_tokens.notna()]).all()


def test_the_filters_control_is_the_filter_over_other_answers():
    confidences, codes = made_pool().question(0)
    order = rules.orders(np.random.default_rng(2), 5, 16, len(codes))
    own = next(one for one in rules.offline(confidences, codes, order, 3) if one.rule == "lowest@10")
    same = rules.filter_of_others(confidences, codes, order, 3)
    assert np.array_equal(own.codes, same.codes) and np.array_equal(own.ballots, same.ballots)
    said = rules.online(confidences, codes, order, Policy(warmup=4, window=3), np.random.default_rng(3))
    dealt = next(one for one in said if one.rule == "lowest@10 shuffled")
    assert not np.array_equal(dealt.codes, own.codes) and np.array_equal(dealt.tokens, own.tokens)


def test_auc_is_the_chance_that_a_right_trace_scores_higher():
    pool = made_pool(questions=3)
    found = rules.auc(pool, window=3)
    for name in rules.AUC:
        values, expected = score(pool.confidences, {"m": paper_measures(3)[name]})["m"], []
        for place in range(3):
            rows = range(place * pool.size, (place + 1) * pool.size)
            hit = [(values[r], pool.right[place][c]) for r, c in zip(rows, pool.codes[place], strict=True) if c >= 0]
            pairs = [(a > b) + (a == b) / 2 for a, x in hit if x for b, y in hit if not y]
            expected.append(np.mean(pairs))
        assert np.allclose(found[name], expected)
    assert found["mean"].mean() > 0.7


def test_dominated_rules():
    table = pd.DataFrame({"tokens": [10, 20, 20, 5], "accuracy": [0.5, 0.6, 0.5, 0.5]})
    assert dominated(table).tolist() == [True, False, True, False]


def test_summary_counts_tokens_against_the_majority():
    rows = [("majority", 100, 1.0), ("majority", 300, 0.0), ("low", 100, 1.0), ("low", 100, 0.5)]
    frame = pd.DataFrame(rows, columns=["variant", "generated_tokens", "score"])
    frame = frame.assign(setting="", item=["a", "b"] * 2, sequential_tokens=1)
    found = summary(frame).set_index("rule")
    assert found.loc["low", "saved"] == 0.5 and found.loc["low", "accuracy"] == 0.75


def test_symbolic_questions_have_their_true_products_as_targets():
    problem = pools.symbolic(20)
    for item in problem.items.itertuples():
        numbers = [int(word) for word in item.prompt.removesuffix(" =").split()]
        assert len(numbers) == 7 and int(item.target) == np.prod(numbers) % 19
    assert problem.find("@0 3 ; [A] 6") == "6" and problem.find("@0 3 ;") is None


def test_sums_are_verified_by_reasoning_gym():
    problem = pools.sums(30)
    assert len(problem.items) == 30 == problem.items.prompt.nunique()
    for item in problem.items.itertuples():
        question = item.prompt.rsplit("Q: ", 1)[1].split("\n")[0]
        left, sign, right = question.removesuffix(" =").rsplit(": ", 1)[1].split()
        assert int(item.target) == int(left) + (1 if sign == "+" else -1) * int(right)
        assert problem.right(item.target, item.target) and not problem.right("99", item.target)
    assert problem.find(" -3") == "-3"


def test_published_sets_are_files_or_commits(tmp_path):
    with pytest.raises(TychoError, match=r"set data=FILE\.jsonl or data=hub://MathArena/aime_2025@COMMIT"):
        pools.published("aime25", "", 5, "boxed")
    with pytest.raises(TychoError, match="40 digits"):
        pools.published("aime25", "hub://owner/name@main/x.jsonl", 5, "boxed")
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps({"question": "1+1?", "answer": 2}) + "\n" + json.dumps({"problem": "?", "answer": "70"}))
    problem = pools.published("aime25", str(path), 5, "boxed")
    assert problem.items.target.tolist() == ["2", "70"]
    assert problem.find(r"so \boxed{70}") == "70" and problem.right("70.0", "70")
    path.write_text("{broken")
    with pytest.raises(TychoError, match="is not JSON lines"):
        pools.published("aime25", str(path), 5, "boxed")


def test_gpqas_choices_are_shown_and_the_answer_is_a_letter(tmp_path):
    names = ["Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"]
    rows = [{"Question": f"Which, {i}?\n", **dict(zip(names, (f"yes {i} ", "no", "never", "none, ever"), strict=True))} for i in range(40)]  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "gpqa.csv", index=False)
    problem = pools.published("gpqa", str(tmp_path / "gpqa.csv"), 30, "boxed", "\nBox the letter.")
    assert len(problem.items) == 30 and set(problem.items.target) == set("ABCD")  # the right one is in no fixed place
    for i, item in enumerate(problem.items.itertuples()):
        lines = item.prompt.split("\n")
        assert lines[:2] == [f"Which, {i}?", ""] and lines[-1] == "Box the letter."
        assert f"{item.target}) yes {i}" in lines[2:6] and sorted(line[3:] for line in lines[2:6])[0] == "never"
        assert problem.right(problem.find(rf"\boxed{{{item.target.lower()}}}"), item.target)
    assert problem.items.equals(
        pools.published("gpqa", str(tmp_path / "gpqa.csv"), 30, "boxed", "\nBox the letter.").items
    )


PAPER = {  # hub id, temperature, top-p, top-k, tokens: examples of the public code; Table 11 for Qwen3
    "deepseek_8b": ("deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", 0.6, 0.95, 0, 64_000),
    "qwen3_8b": ("Qwen/Qwen3-8B", 0.6, 0.95, 20, 32_000),
    "qwen3_32b": ("Qwen/Qwen3-32B", 0.6, 0.95, 20, 32_000),
    "gpt_oss_20b": ("openai/gpt-oss-20b", 1.0, 1.0, 40, 130_000),
    "gpt_oss_120b": ("openai/gpt-oss-120b", 1.0, 1.0, 40, 130_000),
}


def test_scale_paper_is_the_papers():
    """Models with their sampling, K = B up to 512 from a pool of 4096, 64 resamples, and the numbers of Algorithm 2."""
    from methods.deepconf.published import ASKED, BUDGETS, MODELS, POOL, RESAMPLES, SETS, TAU, WARMUP, WINDOW, K
    from tycho.config import load_settings
    from tycho.jobs import plan

    planned = plan(load_settings({"scale": "paper", "only": ["deepconf"]}))
    jobs = {(key.arm, key.task): job.config for key, job in planned.jobs.items() if key.arm in MODELS}
    assert set(jobs) == {(arm, task) for arm in PAPER for task in SETS}
    assert set(SETS) == {"aime24", "aime25", "brumo25", "hmmt25", "amc23", "math500", "gpqa"}
    for (arm, _), config in jobs.items():
        assert (config.served, config.temperature, config.top_p, config.top_k, config.most) == PAPER[arm]
        assert config.effort == ("high" if arm.startswith("gpt") else "")
        assert config.asked == ("" if arm == "deepseek_8b" else ASKED) and config.answers == "boxed"
        assert (*config.budgets, config.budget) == BUDGETS == (32, 64, 128, 256, 512)
        assert (config.pool, config.resamples) == (POOL, RESAMPLES) == (4096, 64)
        assert (config.warmup, config.window, config.k, config.tau) == (WARMUP, WINDOW, K, TAU) == (16, 2048, 20, 0.95)
    assert len({config.model for config in jobs.values()}) == len(MODELS)  # a server a model


def test_the_model_can_be_trained_by_itself(tmp_path):
    """As a pilot of a recipe does; there is nothing to look across then."""
    from tycho.config import load_settings
    from tycho.jobs import plan
    from tycho.worker import run_process

    config = {"steps": 2, "batch": 4, "width": 16, "layers": 1}
    change = {"arms": ["model"], "tasks": ["facts-35"], "config": config}
    given = {"scale": "smoke", "results": str(tmp_path), "only": ["deepconf"], "methods": {"deepconf": change}}
    found = plan(load_settings(given))
    assert {key.arm for key in found.jobs} == {"model", "synthesis"}
    for process in found.ordered():
        assert run_process(found, process) == {}


def test_the_common_ground_is_answered_by_coconuts_model():
    from methods.deepconf.method import DeepConf
    from tycho.harness import common_items
    from tycho.keys import JobKey

    key = JobKey("quick", "deepconf", "rules", "products-verbose", 2)
    need = DeepConf().needs(key, None)["model"]
    assert need.key == JobKey("quick", "coconut", "cot", "products-verbose", 2)
    problem = pools.ground("products-verbose", 5)
    assert problem.items.equals(common_items("products-verbose", 5))
    assert problem.find("1 : 3 ; [A] 4") == "4" and problem.find("1 : 3") is None


def test_smaller_budgets_are_the_same_orders_ended_earlier():
    pool, policy = made_pool(), Policy(warmup=4, window=3)
    made = {"resamples": 5, "policy": policy, "windows": [], "flops": lengths_only}
    frame = rules.samples(pool, budget=16, budgets=[8], rng=np.random.default_rng(1), **made)
    alone = rules.samples(pool, budget=8, rng=np.random.default_rng(1), **made)
    first, item = pool.problem.items["item"].iloc[0], "item"  # later questions draw on from other states
    found = frame[(frame.setting == "budget=8") & (frame[item] == first)].set_index("variant")
    assert set(found.index) == set(rules.BY_BUDGET)
    expected = alone[alone[item] == first].set_index("variant").loc[found.index]
    assert found.score.equals(expected.score) and found.generated_tokens.equals(expected.generated_tokens)


def test_a_server_gets_the_system_message_and_the_effort():
    from types import SimpleNamespace

    from tycho.engines import Settings

    config = SimpleNamespace(served="m", system="You are m.", effort="high")
    body = pools.served(config, "http://127.0.0.1:9/v1").body("1+1?", Settings(top_logprobs=20))
    assert [one["role"] for one in body["messages"]] == ["system", "user"] and body["reasoning_effort"] == "high"
    bare = pools.served(SimpleNamespace(served="m", system="", effort=""), "http://127.0.0.1:9/v1")
    body = bare.body("1+1?", Settings())
    assert [one["role"] for one in body["messages"]] == ["user"] and "reasoning_effort" not in body


@pytest.fixture
def trace_file(tmp_path):
    path = tmp_path / "traces.parquet"
    write_traces(path, made_pool().traces())
    return path


def test_saved_traces_are_re_analysed_without_a_model(trace_file):
    found = reanalyse(read_traces(trace_file, warmup=4), Policy(warmup=4, window=3), resamples=6, merge=False)
    table = summarise(found).set_index("rule")
    assert {"majority", "lowest@10", "low+tau", "high", "consensus-only", "random-stop"} <= set(table.index)
    assert (table.questions == 4).all() and table.loc["majority", "saved"] == 0 < table.loc["low", "saved"]
    assert (table.low <= table.accuracy).all() and (table.accuracy <= table.high).all()


def test_traces_without_log_probs_still_vote():
    frame = pd.DataFrame({"question": "q", "text": None, "answer": ["1", "2", "2"], "target": "2", "tokens": [5, 6, 7]})
    found = reanalyse(Traces(frame, Ragged.of([[], [], []])), Policy(warmup=1), resamples=3, merge=True)
    table = found.set_index("rule")
    assert table.loc["majority", "answer"] == "2" and table.loc["majority", "right"] == 1
    assert table.loc["majority", "tokens"] == 18 and "low" not in table.index


@pytest.fixture
def shell(monkeypatch, capsys):
    import sys

    from tycho import cli

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["tycho", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return call


def test_the_shell_command(shell, trace_file, tmp_path):
    code, out, err = shell("deepconf", trace_file, "--warmup", 4, "--window", 3, "--output", tmp_path / "out.csv")
    assert code == 0, err
    assert "consensus-only" in out and "95 %" in out and "low+tau" in out
    assert set(pd.read_csv(tmp_path / "out.csv").question) == set(made_pool().problem.items.item)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["missing.parquet"], "is not a file"),
        (["traces.csv"], "unknown kind of trace file"),
        (["T", "--answers", "boxt"], "unknown answer format 'boxt': did you mean 'boxed'?"),
        (["T", "--tau", "2"], "--tau in (0, 1]"),
        (["T", "--output", "table.txt"], "--output writes .parquet or .csv"),
    ],
)
def test_bad_input_is_one_line(shell, trace_file, words, says):
    code, _, err = shell("deepconf", *[trace_file if word == "T" else word for word in words])
    lines = [line for line in err.splitlines() if line.startswith("tycho: ")]
    assert code == 1 and len(lines) == 1 and says in lines[0] and "Traceback" not in err


def test_what_is_wrong_with_some_traces_is_said_and_the_rest_is_used(shell, tmp_path):
    rows = [{"question": "q", "answer": str(i % 2), "target": "1", "confidences": [3.0] * 4} for i in range(6)]
    rows += [
        {"question": "q", "answer": "1"},
        {"question": "q", "answer": "1", "confidences": [float("nan")]},
        {"question": "q", "text": ""},
    ]
    path = tmp_path / "traces.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n{cut off")
    code, out, err = shell("deepconf", path, "--warmup", 2, "--window", 2)
    assert code == 0 and "majority" in out
    for says in ("no log-probs", "NaN or infinite", "are empty", "not JSON objects"):
        assert says in err
    assert all(line.startswith("note: ") for line in err.splitlines())


def test_it_is_an_lm_eval_model(tmp_path):
    """Through lm-eval itself: documents answered by many traces, the cost of all of them in the sample."""
    from methods.deepconf import serve
    from tycho.harness import measure, written_answer
    from tycho.lm import small
    from tycho.tasks import arithmetic

    words = arithmetic.vocabulary(pools.shape())
    small.save(small.build(words, layers=1, width=16, context=64), words.tokenizer(), tmp_path / "model")
    complete = serve.load(str(tmp_path / "model"), budget=6, warmup=3, window=2, wave=2, answers="last_line")
    frame = measure(
        complete, pools.symbolic(3).items, task="products", answer=lambda text: written_answer(text) or text, most=8
    )
    assert len(frame) == 3 and (frame.generated_tokens > 6).all() and (frame.flops > 0).all()
    assert (frame.sequential_tokens <= 16).all() and frame.attrs["lm_eval"]
    with pytest.raises(TychoError, match="unknown mode 'lo'"):
        serve.load(str(tmp_path / "model"), mode="lo")


def test_a_pool_keeps_what_a_server_answered():
    """Failed traces have neither answer nor confidence; a question with too few others is left out, and still written."""
    items = make_items(["a", "b", "c"], ["1", "2", "3"])
    problem = pools.Problem(items, lambda text: text or None, None, str.__eq__)
    tops = np.array([[-0.1, -2.0], [-0.2, -3.0]])
    holed = np.array([[-0.1, -2.0], [np.nan, np.nan]])
    good = [Completion(str(n), 2, "eos", (), tops) for n in (1, 2, 3)]
    made = [
        good[0], good[0], Completion("1", 2, "eos", (), holed), good[0],
        good[1], *[Completion("2", 2, "error", (), tops, "gone")] * 3,
        *[good[2]] * 4,
    ]  # fmt: skip
    whole = pools.pool(problem, [kept(one, 2) for one in made])
    assert whole.confidences.lengths.tolist() == [2, 2, 0, 2] + [2, 0, 0, 0] + [2] * 4
    assert whole.codes.tolist() == [[0] * 4, [0, -1, -1, -1], [0] * 4]
    found = pools.usable(whole, 2)
    assert found.problem.items["item"].tolist() == items["item"].tolist()[::2] and found.codes.tolist() == [[0] * 4] * 2
    assert found.confidences.lengths.tolist() == [2, 2, 0, 2] + [2] * 4 and found.texts == ["1"] * 4 + ["3"] * 4
    frame = rules.samples(
        found, budget=4, resamples=6, policy=Policy(warmup=2, window=1), windows=[], rng=np.random.default_rng(0),
        flops=lengths_only,
    )  # fmt: skip
    assert (frame[frame.variant == "majority"].score == 1).all()
    assert pools.usable(found, 2) is found and not len(pools.usable(whole, 0).codes)
    assert whole.traces().frame["answer"].isna().tolist() == [False] * 5 + [True] * 3 + [False] * 4


def test_claims_find_their_arms_at_scale_standard():
    from reports.claims import arms_named, load_claims
    from tycho.config import load_settings
    from tycho.jobs import plan

    planned = {(key.arm, key.task) for key in plan(load_settings({"scale": "standard", "only": ["deepconf"]})).jobs}
    for claim in load_claims(ROOT / "methods/deepconf/claims.yaml"):
        assert arms_named(claim) <= planned, claim.id


def test_a_budget_that_does_not_fit_is_said_before_anything_is_sampled():
    from types import SimpleNamespace

    from methods.deepconf.evaluate import evaluate

    for warmup, budget, pool in ((16, 16, 32), (4, 20, 16)):
        config = SimpleNamespace(warmup=warmup, budget=budget, pool=pool)
        with pytest.raises(TychoError, match=f"warmup {warmup} < budget {budget} <= pool {pool} does not hold"):
            evaluate(SimpleNamespace(config=config))


def faulty():
    import sys

    sys.path.insert(0, str(ROOT / "tests" / "engines"))
    from faulty import Faulty

    return Faulty


def planned_against(server, folder, questions, **settings):
    """A copy of scale paper's arm for one model, small, that asks `server` the questions of a file."""
    from tycho.config import load_settings
    from tycho.jobs import plan

    path = folder / "set.jsonl"
    path.write_text("\n".join(map(json.dumps, questions)))
    knobs = {
        "model": server.url, "data": str(path), "answers": "last_line", "pool": 8, "budget": 6, "warmup": 3,
        "resamples": 2, "window": 2, "windows": [1], "k": 3, "live": 2, "most": 16,
    }  # fmt: skip
    change = {"tasks": ["aime25"], "arms": ["qwen3_8b"], "config": {"budgets": [4]}, "arm_config": {"qwen3_8b": knobs}}
    given = {"scale": "paper", "device": "cpu", "threads": 1, "results": str(folder / "results"), **settings}
    return plan(load_settings(given | {"only": ["deepconf"], "methods": {"deepconf": change}}))


def test_scale_paper_scaled_down_runs_against_a_server(tmp_path, caplog):
    """The published sets' path: questions of a file, a chat server, pool, rules and the live run, failures counted."""
    from tycho.worker import run_process

    questions = [{"question": f"good {i}", "answer": "one two three"} for i in range(3)]
    with faulty()() as server:
        planned = planned_against(server, tmp_path, [*questions, {"question": "dies", "answer": "7"}])
        for process in planned.ordered():
            assert run_process(planned, process) == {}
    view = next(planned.view(key) for key in planned.jobs if key.arm == "qwen3_8b")
    samples = view.record("samples").query("variant == 'majority' and setting == ''")
    assert samples.score.tolist() == [1, 1, 1] and samples.generated_tokens.tolist() == [24] * 3
    assert samples.flops.isna().all()  # what a server computes is not known here
    metrics = view.record("metrics").set_index("name").value
    assert metrics["failed_traces"] == 8 and metrics["stops_unlike_replay"] == 0
    assert metrics["questions_left_out"] == 1 and "1 questions are left out" in caplog.text
    assert len(read_traces(view.folder / "evaluate/tables/pool.parquet", "last_line", warmup=3).frame) == 32


def test_a_server_that_leaves_before_the_live_run_costs_no_trace_it_has_written(tmp_path):
    """The job fails, since a replay counts beside a live run only; the next start asks for what is missing and no more."""
    from tycho.worker import run_process

    class Leaving(faulty()):
        left = 20  # requests that it still answers

        async def _act(self, mode, body, writer):
            self.left -= 1
            return self.left >= 0 and await super()._act(mode, body, writer)

    questions = [{"question": f"good {i}", "answer": "one two three"} for i in range(3)]
    with Leaving() as server:
        planned = planned_against(server, tmp_path, questions, checkpoint_seconds=0)
        process = next(process for process in planned.ordered() if process.arm == "qwen3_8b")
        (reason,) = run_process(planned, process).values()
        assert "the live run, without which no replay counts, cannot be made" in reason and "\n" not in reason
        assert "cannot be reached" in reason
        server.left, before = 1000, server.asked["good"]
        assert run_process(planned, process) == {}
        assert server.asked["good"] - before == (24 - 20) + 2 * 2 * 6  # what was missing, then low and high, live
    metrics = planned.view(process.jobs[0].key).record("metrics").set_index("name").value
    assert metrics["failed_traces"] == 0 and metrics["stops_unlike_replay"] == 0


def test_collected_traces_come_back_from_a_checkpoint_bit_for_bit(tmp_path):
    from tycho.files import load_state, save_state

    missing = Kept("", np.zeros(0), "not asked for yet")
    made = [
        Kept("né \ud800 7", np.array([0.1, 1 / 3])),
        Kept("half", np.zeros(0), "gone"),
        Kept("", np.zeros(0)),
        missing,
    ]
    for found in (made, [missing] * 4):
        save_state(tmp_path / "state", packed(found))
        again = opened(load_state(tmp_path / "state"), [missing] * 4)
        for one, two in zip(found, again, strict=True):
            expected = missing if one.error else one
            assert (two.text, two.error) == (expected.text, expected.error)
            assert np.array_equal(two.confidences, expected.confidences) and two.confidences.dtype == np.float64
