"""The room around the idea: own models and files, the served checkpoint, value functions, shortcuts, the paper's numbers."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from methods.coconut import estimands, paired, published, values
from methods.coconut.data import problem, symbolic_words
from methods.coconut.method import Coconut
from methods.coconut.model import BEGIN, END, PAUSE, THOUGHT, Thinker, add_marks, find_marks
from methods.coconut.serve import Served, load
from reports.claims import load_claims
from tycho import records
from tycho.adapter import JobView, Run
from tycho.config import load_settings
from tycho.errors import TychoError
from tycho.harness import Options, make_items, measure
from tycho.jobs import plan
from tycho.keys import JobKey, read_setting
from tycho.lm import small
from tycho.tasks import common, graph_text, graphs
from tycho.tasks import published as tasks_published
from tycho.worker import run_process

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("TYCHO_DATA", ROOT / "../shared/data"))
WORDS = common.ground("graphs").words
SCALES = yaml.safe_load((ROOT / "methods/coconut/scales.yaml").read_text())


def graph_items(n=6, seed=0):
    return graph_text.symbols(graphs.layered(n, seed), WORDS, "terse", np.random.default_rng(seed))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """An untrained thinker on disk."""
    folder = tmp_path_factory.mktemp("thinker")
    model = small.build(WORDS, context=160)
    with torch.no_grad():
        for weight in model.parameters():  # likeliest words far apart
            weight.mul_(4 if weight.ndim > 1 else 1)
    Thinker(model, WORDS.tokenizer(), "thoughts", 2, marked=False).save(folder)
    return folder


# --- a pretrained model and a file -----------------------------------------------------------------------------------


def pretrained(folder, texts, tied=True):
    """A tiny GPT-2 with a byte-level tokenizer, as one from the hub would come."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([*texts, "<<" * 99], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    config = GPT2Config(
        vocab_size=len(fast), n_layer=2, n_embd=32, n_head=2, n_positions=1024, eos_token_id=0, tie_word_embeddings=tied
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def published_file(name):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"published file {name} is not here: set TYCHO_DATA")
    return path


@pytest.mark.parametrize("tied", [True, False])
def test_marks_start_as_the_pattern_means_and_leave_the_rest(tied, tmp_path):
    folder = pretrained(tmp_path, ["<<3+4=7>> hello"], tied)
    plain, _ = small.load(folder)
    model, tokenizer = small.load(folder)
    add_marks(model, tokenizer)
    marks = find_marks(tokenizer)
    pattern = tokenizer("<<", add_special_tokens=False)["input_ids"][0]
    for table, old in (
        (model.get_input_embeddings().weight, plain.get_input_embeddings().weight),
        (model.get_output_embeddings().weight, plain.get_output_embeddings().weight),
    ):
        assert all(torch.equal(table[mark], old[pattern]) for mark in marks)
        assert torch.equal(table[: len(old)], old)
    assert tokenizer.convert_ids_to_tokens(list(marks)) == [BEGIN, END, THOUGHT, PAUSE]
    before = len(tokenizer)
    add_marks(model, tokenizer)
    assert len(tokenizer) == before, "a second time changes nothing"


@pytest.mark.parametrize(("name", "task"), [("prosqa_valid.json", "prosqa-words"), ("gsm8k_icot_valid.json", "gsm8k")])
def test_a_scaled_down_copy_of_scale_paper_trains_two_steps(name, task, tmp_path):
    """The scale's own config, on a tiny model and a few published items, one step of stage 0 and one with thoughts."""
    items = json.loads(published_file(name).read_text())[:12]
    data = tmp_path / "items.json"
    data.write_text(json.dumps(items))
    model = pretrained(tmp_path / "model", [item["question"] for item in items])
    tiny = {"model": str(model), "batch": 2, "most": 4, "validation_items": 2, "test_items": 2}
    files = {"data": str(data), "validation_data": str(data), "test_data": str(data)}
    short = {"first_steps": 1, "stage_steps": 1, "steps": 2, "validate_every": 1, "start": "", "start_steps": 0}
    change = {"tasks": [task], "arms": ["coconut"], "seeds": [0], "config": tiny, "task_config": {task: files | short}}
    settings = {
        "device": "cpu",
        "scale": "paper",
        "results": str(tmp_path / "r"),
        "only": ["coconut"],
        "methods": {"coconut": change},
    }
    planned = plan(load_settings(settings))
    process = planned.process("coconut", "coconut", task, "0")
    assert run_process(planned, process) == {}
    view = planned.view(process.jobs[0].key)
    curves = view.record("metrics").query("name == 'stage'")
    assert curves.value.tolist() == [0.0, 1.0]
    samples = view.record("samples")
    assert len(samples) == 2 and samples.target.tolist() == [item["answer"].replace(",", "") for item in items[:2]]
    assert Thinker.load(view.model).thoughts == Coconut.Config(**process.jobs[0].config.model_dump()).latent_steps * (
        2 if task == "gsm8k" else 1
    )


def test_scale_paper_is_what_the_published_code_trains():
    paper = SCALES["paper"]
    shared = paper["config"]
    assert (shared["batch"], shared["learning_rate"], shared["weight_decay"]) == (128, 1e-4, 0.01)
    assert (shared["decay"], shared["warmup"], shared["clip"], shared["mix"]) == ("constant", 0, 0, 0.0)
    assert shared["marks"] and shared["remove_all"] and shared["reset_optimizer"]
    assert shared["model"] == "openai-community/gpt2"
    tasks = {"gsm8k": "gsm8k", "prontoqa": "prontoqa", "prosqa": "prosqa-words"}
    for name, wanted in published.CURRICULA.items():
        found, epoch = paper["task_config"][tasks[name]], published.steps_per_epoch(name)
        assert epoch == {"gsm8k": 3012, "prontoqa": 70, "prosqa": 139}[name]
        assert found.get("per_step", 1) == wanted["per_step"]
        assert found["latent_steps"] == wanted["latent_steps"]
        assert found["stage_steps"] == found["first_steps"] == wanted["epochs_per_stage"] * epoch
        assert found["steps"] == wanted["epochs"] * epoch
        assert found.get("start_steps", 0) == wanted["from_cot"] * epoch
        assert found["validate_every"] == epoch
        assert found.get("most", shared["most"]) == (64 if name == "gsm8k" else 128)  # max_new_tokens of its run.py
    # Table 1 of the paper, as the fact sheet re-assembled it.
    assert published.TABLE_1["prosqa"]["coconut"] == (97.0, 14.2) and published.TABLE_1["prosqa"]["cot"] == (77.5, 49.4)
    assert published.TABLE_1["gsm8k"]["coconut"] == (34.1, 8.2) and published.TABLE_1["gsm8k"]["cot"] == (42.9, 25.0)
    assert published.TABLE_1["prontoqa"]["no_curriculum"] == (52.4, 9.0)


def test_claims_quote_the_paper_s_table():
    for claim in yaml.safe_load((ROOT / "methods/coconut/claims.yaml").read_text()):
        table = published.TABLE_1["gsm8k" if "arithmetic" in claim["id"] else "prosqa"]
        tokens = claim["id"] == "coconut.fewer-tokens"
        for arm, printed in claim.get("paper", {}).items():
            if arm != "note":
                assert printed == table[arm][tokens], f"{claim['id']}: {arm}"


def test_your_own_model_and_data_from_the_shell(tmp_path, monkeypatch, capsys):
    """`tycho run coconut --model FOLDER --data FILE`, on six sums."""
    import sys

    from tycho import cli

    items = [
        {
            "question": f"Add {n} and 2 and 3.",
            "steps": [f"<<{n}+2={n + 2}>>", f"<<{n + 2}+3={n + 5}>>"],
            "answer": str(n + 5),
        }
        for n in range(6)
    ]
    (tmp_path / "sums.json").write_text(json.dumps(items))
    model = pretrained(tmp_path / "model", [item["question"] for item in items])
    knobs = {"steps": 3, "first_steps": 1, "stage_steps": 1, "latent_steps": 2, "batch": 2, "most": 3}
    knobs |= {"validation_items": 2, "validate_every": 3, "test_items": 2}
    words = ["run", "coconut", "--model", str(model), "--data", str(tmp_path / "sums.json"), "--arm", "coconut"]
    words += ["--seeds", "1", "--results", str(tmp_path / "results"), "--device", "cpu"]
    for name, value in knobs.items():
        words += ["--set", f"{name}={value}"]
    monkeypatch.setattr(sys, "argv", ["tycho", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out = capsys.readouterr().out
    assert not ended.value.code, out
    assert "accuracy" in out and "own" in out
    trained = Thinker.load(tmp_path / "results/quick/jobs/coconut/coconut/own/seed0/model")
    assert trained.thoughts == 2 and trained.marked


def test_the_large_scales_plan():
    for scale, jobs in (("standard", (8 + 2 + 2) * 5 + 4 * 3 + 1 + 1 + 1), ("paper", 3 * 7 * 3 + 1)):
        planned = plan(load_settings({"scale": scale, "only": ["coconut"]}))
        assert not planned.broken and len(planned.jobs) == jobs
    needs = {key.task: job.needs for key, job in planned.jobs.items() if key.arm == "coconut"}
    assert needs["gsm8k"]["start"].key.arm == "cot" and not needs["prontoqa"]


@pytest.mark.parametrize("room", ["coconut", "superposition", "token_assorted"])
def test_scale_standard_runs_what_its_claims_name(room):
    """Every side of every claim, its floor and its controls: arm and task, and the sweeps' points that a setting names."""
    planned = plan(load_settings({"scale": "standard", "only": [room]}))
    configs = {(key.arm, key.task): job.config for key, job in planned.jobs.items() if key.method == room}
    by_path = {("construction", "prosqa")}  # published graphs: only where somebody gives the file
    for claim in load_claims(ROOT / "methods" / room / "claims.yaml"):
        for side in sides(claim):
            if (side.arm, side.task) in by_path:
                continue
            config = configs.get((side.arm, side.task))
            assert config is not None, f"{claim.id} needs {side.arm} on {side.task}"
            for name, value in read_setting(side.setting).items():
                swept = {"layers": "depths", "thoughts": "forced", "codebook": "sweep", "dimensions": "dimensions"}
                if name in swept:
                    assert float(value) in getattr(config, swept[name]), (
                        f"{claim.id} needs {name}={value} of {side.arm}"
                    )


def sides(claim):
    tests = [claim.test, claim.floor_test(), *(claim.control_test(control) for control in claim.explains_away)]
    for test in tests:
        if test is not None:
            for part in test.parts if test.kind == "all" else [test]:
                yield from part.sides()


def test_the_depth_sweep_is_of_thoughts_pauses_and_written_chains():
    planned = plan(load_settings({"scale": "standard", "only": ["coconut"]}))
    trained = {key: job for key, job in planned.jobs.items() if "train" in job.stages}
    swept = {key.arm for key, job in trained.items() if job.config.depths}
    graphs = {key.arm: job.config for key, job in planned.jobs.items() if key.task == "graphs" and key.seed == 0}
    assert swept == {"coconut", "cot", "pause_as_thought"}
    assert all(graphs[arm].depths == [1, 4, 6] and graphs[arm].layers is None for arm in swept)
    assert common.ground("graphs").layers == 2  # the arm's own depth


def test_own_training_says_what_is_missing(tmp_path):
    def planned(**config):
        change = {"tasks": ["own"], "task_arms": None, "arms": ["coconut"], "config": config}
        plan(load_settings({"scale": "quick", "only": ["coconut"], "methods": {"coconut": change}}))

    with pytest.raises(TychoError, match="`model`"):
        planned()
    with pytest.raises(TychoError, match="take the task own"):
        change = {"config": {"model": "m", "data": "d"}, "tasks": ["graphs"]}
        plan(load_settings({"scale": "quick", "only": ["coconut"], "methods": {"coconut": change}}))
    with pytest.raises(TychoError, match="must be more than start_steps"):
        planned(model="m", data="d", steps=5, start_steps=5)


# --- a checkpoint, served --------------------------------------------------------------------------------------------


def test_lm_eval_asks_our_generate_call(saved):
    """An edited prompt changes its own answer and no other."""
    served, examples = load(str(saved)), graph_items(5)
    prompts = [WORDS.write(row.tolist()) for row in examples.prompt]
    edited = [*prompts[:3], WORDS.write(graph_items(1, seed=9).prompt[0].tolist()), prompts[4]]
    frames = [
        measure(served, make_items(some, ["1"] * 5), task="coconut-test", answer=str, most=5)
        for some in (prompts, edited)
    ]
    same = (frames[0].response == frames[1].response).tolist()
    assert same == [True, True, True, False, True]
    assert (frames[0].generated_tokens >= 3).all(), "two thoughts and a word"
    direct = served(prompts, Options(max_gen_toks=5))
    assert [found.text for found in direct] == frames[0].response.tolist()


def test_likelihoods_are_those_of_the_thinking_model(saved):
    thinker = Thinker.load(saved)
    served = Served(thinker, batch=2)
    prompts = [WORDS.write(row.tolist()) for row in graph_items(3).prompt]
    greedy = [found.text for found in served(prompts, Options(max_gen_toks=3))]
    pairs = [*zip(prompts, greedy, strict=True), (prompts[0], "[A] 3")]
    found = served.loglikelihood(pairs)
    assert [is_greedy for _, is_greedy in found] == [True, True, True, False]
    vectors = thinker.model.get_input_embeddings()(torch.tensor([WORDS.read(prompts[0])]))
    for _ in range(2):
        hidden = thinker.model(inputs_embeds=vectors, output_hidden_states=True).hidden_states[-1][:, -1:]
        vectors = torch.cat([vectors, hidden], dim=1)
    total = 0.0
    for word in WORDS.read("[A] 3"):
        total += thinker.model(inputs_embeds=vectors).logits[0, -1].log_softmax(dim=0)[word].item()
        vectors = torch.cat([vectors, thinker.model.get_input_embeddings()(torch.tensor([[word]]))], dim=1)
    assert found[3][0] == pytest.approx(total, abs=2e-3)


def test_a_folder_of_something_else_is_refused(tmp_path):
    small.save(small.build(WORDS), WORDS.tokenizer(), tmp_path)
    with pytest.raises(TychoError, match="no model that methods/coconut trained"):
        load(str(tmp_path))


# --- analysis --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [graphs.layered, graphs.published])
def test_graphs_are_read_back_from_their_symbols(make):
    words = graph_text.vocabulary(28)
    rng = np.random.default_rng(3)
    some = make(20, 1).renamed(28, rng)
    found = values.graphs_of(graph_text.symbols(some, words, "terse", rng, rename=False), words)
    assert np.array_equal(found.adjacency, some.adjacency)
    for name in ("root", "target", "distractor", "depth"):
        assert np.array_equal(getattr(found, name), getattr(some, name)), name


def test_classes_of_nodes_by_hand():
    """0 -> {1, 2}, 1 -> 3, 2 -> 4, 5 -> 6: target 3, distractor 6."""
    some = graphs.from_lists([[(0, 1), (0, 2), (1, 3), (2, 4), (5, 6)]], [0], [3], [6], [8])
    assert values.classes(some, 0).tolist() == [[2, 0, 1, 2, 2, 3, 3, -1]]
    assert values.classes(some, 1).tolist() == [[2, 2, 2, 0, 1, 3, 3, -1]]
    share = np.array([[0.0, 0.5, 0.2, 0.1, 0.1, 0.06, 0.04, 0.0]])
    found = values.by_class(share, values.classes(some, 0))
    assert found == pytest.approx(
        {"optimal": 0.5, "other frontier": 0.2, "other reachable": 0.2 / 3, "unreachable": 0.05}
    )
    assert values.top_shares(share) == pytest.approx([0.5, 0.7, 0.8])


def test_gaps_are_between_nodes_of_one_item():
    """Target 3, optimal 1. The first item's other node as far, 2, is a dead end; in the second 2 has as many children as 1 and
    4 has two; in the third there is no other node as far, so nothing is said of it."""
    edges = [
        [(0, 1), (0, 2), (1, 3), (5, 6)],
        [(0, 1), (0, 2), (0, 4), (1, 3), (2, 7), (4, 7), (4, 2), (5, 6)],
        [(0, 1), (1, 3), (5, 6)],
    ]
    some = graphs.from_lists(edges, [0] * 3, [3] * 3, [6] * 3, [8] * 3)
    share = np.array([[0.0, 0.5, 0.2, 0.1, 0.08, 0.06, 0.04, 0.02]] * 2 + [[0.9] * 8])
    found = paired.gaps(share, some, 0)
    assert found["optimal over other frontier"] == pytest.approx([0.3, (0.3 + 0.42) / 2, np.nan], nan_ok=True)
    going_on = found["optimal over other frontier with children"]
    assert going_on == pytest.approx([np.nan, (0.3 + 0.42) / 2, np.nan], nan_ok=True)
    alike = found["optimal over other frontier with as many children"]
    assert alike == pytest.approx([np.nan, 0.3, np.nan], nan_ok=True)
    wanted = [0.2 - 0.05, (0.2 + 0.08) / 2 - 0.05, np.nan]
    assert found["other frontier over unreachable"] == pytest.approx(wanted, nan_ok=True)


def test_values_are_judged_by_item(saved, tmp_path):
    """The analysis hands over a gap an item, on more items than the test has, and the estimand gives them to the judge."""
    key = JobKey("quick", "coconut", "coconut", "graphs", 0)
    view = JobView(key, tmp_path)
    shutil.copytree(saved, tmp_path / "model")
    answers = make_items(["a", "b"], ["1", "2"]).assign(answer="1", correct=[True, False], flops=1.0)
    answers = answers.assign(**dict.fromkeys(("generated_tokens", "sequential_tokens", "forward_passes"), 1))
    records.write(tmp_path / "evaluate/samples.parquet", records.tidy("samples", answers, **asdict(key)))
    for again in range(2):  # the second time beside its own earlier records
        run = Run(key, "analyse", Coconut.Config(test_items=10, validation_items=2), job=view, work=tmp_path / "work")
        Coconut().analyse(run)
        run.finish(tmp_path)
        found = records.read(tmp_path / "analyse/metrics.parquet").query("name == 'accuracy'")
        assert found.value.tolist() == [0.5], again
    rows = view.record("samples")
    some = values.graphs_of(common.ground("graphs").held_out(40, "test"), WORDS)
    both = [set(kinds) >= {0, 1} for kinds in values.classes(some, 1)]
    asked = {"arm": "coconut", "task": "graphs", "setting": "thoughts=1"}
    gaps = estimands.value_gap(SimpleNamespace(samples=rows), variant="optimal over other frontier", **asked)
    assert gaps.item.tolist() == [f"graphs, test item {row}" for row in np.flatnonzero(both)] and any(both)
    share = values.node_values(Thinker.load(view.model), common.ground("graphs").held_out(40, "test"), WORDS, 1)
    wanted = paired.gaps(share.numpy(), some, 1)["optimal over other frontier"]
    assert gaps.value.to_numpy() == pytest.approx(wanted[both])


def test_values_are_next_word_probabilities_after_the_thoughts(saved):
    thinker, examples = Thinker.load(saved), graph_items(3)
    found = values.node_values(thinker, examples, WORDS, 1)
    vectors = thinker.model.get_input_embeddings()(examples.prompt[1:2])
    hidden = thinker.model(inputs_embeds=vectors, output_hidden_states=True).hidden_states[-1][:, -1:]
    logits = thinker.model(inputs_embeds=torch.cat([vectors, hidden], dim=1)).logits[0, -1]
    nodes = [WORDS[str(node)] for node in range(WORDS.nodes)]
    torch.testing.assert_close(found[1], logits.softmax(dim=0)[nodes], rtol=0, atol=1e-5)


def test_published_graphs_train_and_test_by_their_path():
    file = published_file("prosqa_valid_graph_4_coconut.json")
    config = Coconut.Config(batch=8, validation_items=5, test_items=9, data=str(file), test_data=str(file))
    found = problem("prosqa", config, data=1, order=1, init=1)
    words, items = symbolic_words("prosqa"), tasks_published.read_prosqa(file)
    test = values.graphs_of(found.test, words)
    assert len(test) == 9 and test.edge_counts.tolist() == [len(item.edges) for item in items[:9]]
    assert test.depth.tolist() == [len(item.neighbor_k) - 1 for item in items[:9]]
    assert set(values.graphs_of(found.batches(0), words).depth.tolist()) <= {3, 4}


def test_words_and_symbols_of_prosqa_are_problems_too():
    config = Coconut.Config(batch=4, validation_items=3, test_items=3, pool=20, context=400)
    for task, read in (("prosqa-words", "."), ("prosqa-balanced", "")):
        found = problem(task, config, data=1, order=1, init=1)
        batch = found.batches(0)
        assert len(batch) == 4 and int(batch.step_counts.min()) >= 3
        assert torch.equal(batch.prompt, problem(task, config, data=1, order=1, init=1).batches(0).prompt)
        target = found.target(found.test, 0)
        assert target and target.endswith(read) and "<" not in target
    assert len(symbolic_words("prosqa")) == len(graph_text.vocabulary(28, common.SPECIAL))
