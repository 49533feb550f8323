"""The published training of scale `paper`: its numbers, its schedule, its mixtures, and corpora that are read on where one stopped."""

from __future__ import annotations

import json
import math
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
import yaml
from transformers import AutoConfig

from methods.mobilellm_r1 import documents, models, stages
from methods.mobilellm_r1.documents import Corpus, Mixture
from tycho.config import load_settings
from tycho.errors import TychoError
from tycho.jobs import plan
from tycho.keys import JobKey
from tycho.lm.examples import IGNORED
from tycho.lm.flops import forward_flops, training_flops
from tycho.lm.training import Trainer, learning_rate
from tycho.sources import ROOT
from tycho.worker import run_process

sys.path.append(str(ROOT / "tests" / "paper"))
import tiny

NAMES = list(models.stages())


@pytest.fixture(scope="module")
def planned():
    found = plan(load_settings({"scale": "paper", "only": ["mobilellm_r1"]}))
    assert not found.broken
    return found


@pytest.fixture(scope="module")
def entries(planned):
    """The resolved knobs of each stage by its published name."""
    return {job.config.stage.name: job.config.stage for key, job in planned.jobs.items() if key.task == "stages"}


def test_each_stage_goes_on_from_the_one_before(planned):
    def key(name):
        return JobKey("paper", "mobilellm_r1", name.replace("-", "_"), "stages", 0)

    assert {found for found in planned.jobs if found.task == "stages"} == {key(name) for name in NAMES}
    for before, name in zip([None, *NAMES], NAMES, strict=False):
        job = planned.jobs[key(name)]
        assert [need.key for need in job.needs.values()] == ([key(before)] if before else [])
        assert job.config.stage.name == name and job.config.stage.size == "140M"
    (synthesis,) = [job for found, job in planned.jobs.items() if found.arm == "synthesis"]
    assert [need.key.arm for need in synthesis.needs.values()] == ["smollm2"]  # a row does not wait for the training


def test_a_size_is_one_knob_for_all_stages():
    change = {"config": {"stage": {"size": "950M"}}}
    found = plan(load_settings({"scale": "paper", "only": ["mobilellm_r1"], "methods": {"mobilellm_r1": change}}))
    assert {job.config.stage.size for key, job in found.jobs.items() if key.task == "stages"} == {"950M"}


@pytest.mark.parametrize("name", NAMES)
def test_the_entry_is_the_published_schedule(entries, name):
    entry, published = entries[name], models.stages()[name]
    for knob in ("batch", "gpus", "sequence", "learning_rate", "weight_decay", "end"):
        assert getattr(entry, knob) == getattr(published, knob), knob
    steps = published.steps or math.ceil(published.samples * published.epochs / (published.batch * published.gpus))
    assert entry.steps == steps
    assert entry.warmup == (published.warmup_steps or math.ceil(published.warmup_share * steps))
    assert bool(entry.teacher) == published.loss.startswith("KL")
    assert not entry.teacher or entry.teacher.rpartition("/")[2] == published.loss.removeprefix("KL to ")
    assert published.schedule == "linear" and entry.clip == models.published()["assumed"]["clip"]
    common = models.published()["common"]
    assert entry.rope_theta_factor == (common["rope_theta_factor"] if name == "reasoning-sft" else 1)
    assert entry.sequence <= (common["final_context"] if name == "reasoning-sft" else common["context"])
    recipe = stages.recipe(entry)
    assert recipe.accumulate * entry.at_once * entry.sequence == published.tokens_a_step
    assert recipe.bf16 and recipe.steps == steps


def test_the_mixtures_are_the_published_percentages(entries):
    table = models.published()
    for kind in ("pretrain", "midtrain"):
        for phase in (0, 1):
            wanted = {name: shares[phase] for name, shares in table["mixes"][kind].items() if shares[phase]}
            assert entries[f"{kind}-{phase + 1}"].mixture == wanted
    for name, samples in table["sft_samples"].items():
        assert entries[name].mixture == samples
        assert sum(samples.values()) == pytest.approx(models.stages()[name].samples, rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_the_rate_at_start_warm_up_and_end(entries, name):
    """Linear from nearly nothing to the peak, then linear to the published share of it: 10 % or nothing."""
    entry, recipe = entries[name], stages.recipe(entries[name])
    peak, warm, end = entry.learning_rate, entry.warmup, (0.1 if name.startswith("pretrain") else 0.0)
    assert learning_rate(recipe, 0) == pytest.approx(peak / (warm + 1))
    if warm:
        assert learning_rate(recipe, warm - 1) == pytest.approx(peak * warm / (warm + 1))
    assert learning_rate(recipe, warm) == pytest.approx(peak)
    middle = (warm + entry.steps) // 2
    slope = peak * (1 - end) / (entry.steps - warm)
    assert learning_rate(recipe, middle) == pytest.approx(peak - slope * (middle - warm))
    assert learning_rate(recipe, entry.steps - 1) == pytest.approx(peak * end + slope)
    assert learning_rate(recipe, entry.steps) == pytest.approx(peak * end)


def test_the_optimiser_is_the_published_one(entries):
    recipe, published = stages.recipe(entries["pretrain-1"]), models.published()["optimiser"]
    trainer = Trainer(torch.nn.Linear(2, 2), lambda step: None, lambda model, batch: None, recipe)
    group = trainer.optimizer.defaults
    assert (list(group["betas"]), group["eps"], group["weight_decay"]) == (
        published["betas"],
        published["epsilon"],
        0.1,
    )


def test_the_page_says_what_a_stage_needs(entries):
    """The teacher's forward pass is counted from the architecture that tests/paper holds to its published size."""
    known = yaml.safe_load((ROOT / "tests" / "paper" / "architectures.yaml").read_text())
    page = (ROOT / "docs" / "paper-scale.md").read_text()
    for name, entry in entries.items():
        sequences, published = entry.batch * entry.gpus, models.stages()[name]
        flops = training_flops(models.config("MobileLLM-R1-140M"), entry.sequence)
        if entry.teacher:
            about = known[entry.teacher]
            flops += forward_flops(AutoConfig.for_model(about["kind"], **about["config"]), entry.sequence)
        most = "" if entry.packed else "at most "  # documents are cut at the length, not filled up to it
        total = f"{most}{flops * sequences * entry.steps:.1e}".replace("e+", "e")
        cells = (f"{entry.gpus} × {published.days}", f"{sequences:,} × {entry.sequence:,}", f"{entry.steps:,}", total)
        assert f"| {name} | {' | '.join(cells)} |" in page


# --- corpora as files ------------------------------------------------------------------------------------------------


def letters(row):
    """A number a letter, 0 behind the document."""
    return [*map(ord, row["text"]), 0]


def write(folder, texts, kind="jsonl"):
    """Two files, the parquet ones of several row groups."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, some in enumerate((texts[: len(texts) // 2], texts[len(texts) // 2 :])):
        path = folder / f"{part}.{kind}"
        if kind == "parquet":
            parquet.write_table(pa.table({"id": list(range(len(some))), "text": some}), path, row_group_size=2)
        else:
            path.write_text("\n\n".join(json.dumps({"text": text}) for text in some) + "\n")
    return folder


TEXTS = ["é" * 3, "bb", "c" * 11, "", "d", "ee" * 9, "fgh"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_packing_loses_no_token_and_begins_again(tmp_path, kind):
    (files,) = documents.files_of(["one"], tmp_path, {"one": [str(write(tmp_path / "one", TEXTS, kind))]})
    once = [token for text in TEXTS for token in letters({"text": text})]
    corpus = Corpus(files, letters, 5)
    read = [token for _ in range(30) for token in next(corpus)]
    assert read == (once * 9)[: len(read)] and len(read) > 3 * len(once)
    assert corpus.passes == 150 // len(once)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_corpus_is_read_on_from_wherever_it_stopped(tmp_path, kind, packed):
    files = sorted(write(tmp_path / "one", TEXTS, kind).iterdir())
    whole = Corpus(files, letters, 5, packed=packed)
    sequences, states = [], []
    for _ in range(25):
        states.append(whole.state())
        sequences.append(next(whole))
    for start, state in enumerate(states):
        again = Corpus(files, letters, 5, packed=packed)
        again.restore(state)
        assert [next(again) for _ in range(25 - start)] == sequences[start:]


def test_the_mixture_is_exact_and_goes_on_from_its_state(tmp_path, entries):
    """Every corpus is one letter, so that each sequence says where it is from."""
    shares = entries["pretrain-2"].mixture
    names = list(shares)

    def mixture():
        files = documents.files_of(names, tmp_path, {})
        return Mixture([Corpus(some, letters, 4) for some in files], list(shares.values()), 0)

    for place, name in enumerate(names):
        write(tmp_path / name, [chr(100 + place) * 7] * 4, "parquet" if place % 2 else "jsonl")
    first = mixture()
    ids, labels = first.take(3000)
    assert ids.shape == (3000, 4) and torch.equal(ids, labels)
    source = ids.max(dim=1).values - 100
    counts = torch.nn.functional.one_hot(source, len(names)).cumsum(dim=0)
    wanted = torch.tensor(list(shares.values())).double() / sum(shares.values())
    assert (counts - torch.arange(1, 3001)[:, None] * wanted).abs().max() < 1
    state, (rest, _) = first.state(), first.take(400)
    again = mixture()
    again.restore(state)
    assert torch.equal(again.take(400)[0], rest)


def test_documents_by_themselves_are_cut_and_padded_without_loss(tmp_path):
    write(tmp_path / "one", ["ab", "cdefgh"])
    (files,) = documents.files_of(["one"], tmp_path, {})
    ids, labels = Mixture([Corpus(files, letters, 4, packed=False)], [1], 7).take(2)
    assert ids.tolist() == [[97, 98, 0, 7], [99, 100, 101, 102]]
    assert labels.tolist() == [[97, 98, 0, IGNORED], [99, 100, 101, 102]]


def test_conversations_are_written_by_the_chat_template():
    tokenizer = tiny.tokenizer()
    encode = documents.encoder(tokenizer)
    ids = encode({"text": None, "messages": [{"role": "user", "content": "hi"}]})
    assert tokenizer.decode(ids) == "user: hi\nassistant:<|endoftext|>"
    assert encode({"text": "hi"}) == [*tokenizer("hi")["input_ids"], tokenizer.eos_token_id]


def test_what_is_wrong_with_a_corpus_is_named(tmp_path):
    with pytest.raises(TychoError, match=r"not here: FineWeb-Edu, Wiki\. Put JSON lines .* into .*/NAME/"):
        write(tmp_path / "arXiv", ["a", "b"])
        documents.files_of(["FineWeb-Edu", "arXiv", "Wiki"], tmp_path, {"Wiki": [str(tmp_path / "none.jsonl")]})
    for text, says in (
        ("", "no document in"),
        ('{"text": "a"}\n{"te', "the line that ends at byte 18"),
        ('{"body": "a"}\n', "no `text` and no `messages`, only body"),
    ):
        (tmp_path / "bad.jsonl").write_text(text)
        with pytest.raises(TychoError, match=says):
            list(zip(range(3), Corpus([tmp_path / "bad.jsonl"], documents.encoder(tiny.tokenizer()), 8), strict=False))


# --- the loss, and a whole job -----------------------------------------------------------------------------------------


def test_divergence_is_the_mean_of_kl_over_kept_positions():
    generator = torch.Generator().manual_seed(0)
    ours, wanted = torch.randn(2, 3, 5, generator=generator), torch.randn(2, 3, 5, generator=generator)
    kept = torch.tensor([[True, True, False], [True, False, False]])
    total = 0.0
    for row, place in kept.nonzero().tolist():
        p = [math.exp(x) for x in wanted[row, place].tolist()]
        q = [math.exp(x) for x in ours[row, place].tolist()]
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert stages.divergence(ours, wanted, kept).item() == pytest.approx(total / 3, rel=1e-5)
    assert stages.divergence(wanted + 2.0, wanted, kept).item() == pytest.approx(0, abs=1e-6)


def test_only_the_model_learns_from_a_teacher(tmp_path):
    path = tiny.causal(tmp_path / "teacher", "llama")
    stage = SimpleNamespace(teacher=path, bf16=False)
    counted = []
    run = SimpleNamespace(
        config=SimpleNamespace(stage=stage), device="cpu", count=lambda flops: counted.append(flops), key=None
    )
    loss = stages.loss_of(run)
    own = stages._pretrained("AutoModelForCausalLM", path)
    ids = torch.randint(1, 200, (2, 6))
    assert loss(own, (ids, ids)).item() == pytest.approx(0, abs=1e-6) and len(counted) == 2
    assert not any(weights.requires_grad for weights in stages.teacher_of(run).parameters())
    assert not stages.teacher_of(run).training
    smaller = models.build("MobileLLM-R1-140M", device="cpu", layers=1, heads=2, kv_heads=1, width=16, feed_forward=16,
                           vocabulary=300, context=32)  # fmt: skip
    with pytest.raises(TychoError, match="has 257 tokens, the model 300"):
        loss(smaller, (ids, ids))


def test_no_token_is_left_out_of_training():
    """A padding token would have neither a first embedding nor its gradient."""
    torch.manual_seed(0)
    model = models.build("MobileLLM-R1-140M", device="cpu", layers=1, heads=2, kv_heads=1, width=16, feed_forward=16,
                         vocabulary=9, context=32)  # fmt: skip
    embedding = model.get_input_embeddings()
    assert embedding.padding_idx is None and embedding.weight.abs().sum(dim=1).min() > 0


def test_without_corpora_a_job_says_which_before_it_loads_anything(tmp_path):
    change = {"tasks": ["stages"], "task_arms": {"stages": ["pretrain_1"]},
              "task_config": {"stages": {"stage": {"folder": str(tmp_path / "none")}}}}  # fmt: skip
    found = plan(load_settings({"scale": "paper", "device": "cpu", "threads": 1, "results": str(tmp_path), "only": ["mobilellm_r1"],
                                "methods": {"mobilellm_r1": change}}))  # fmt: skip
    (process,) = found.ordered()
    (reason,) = run_process(found, process).values()
    assert reason.startswith("corpora that are not here: StarCoder, OpenWebMath, FineWeb-Edu, Wiki, arXiv")


def test_a_stage_belongs_to_its_task(tmp_path):
    change = {"tasks": ["corpora"], "task_arms": {"corpora": ["pretrain_1"]}}
    with pytest.raises(TychoError, match="pretrain_1 does not go with corpora"):
        plan(load_settings({"scale": "paper", "only": ["mobilellm_r1"], "methods": {"mobilellm_r1": change}}))
