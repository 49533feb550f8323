"""The room: the scale `paper` as published and on a scaled-down copy, Countdown, learning that points upwards, serving."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
import yaml

from methods.spg import estimands, llada, published, train, worlds
from methods.spg.learner import Learner, greedy_reward
from methods.spg.method import Spg, SpgConfig
from methods.spg.policy import Policy
from methods.spg.serve import Served, load
from reports.claims import arms_named, load_claims
from tycho.config import job_config, load_settings, method_plan
from tycho.errors import TychoError
from tycho.harness import Options
from tycho.jobs import plan
from tycho.registry import rooms
from tycho.worker import run_process

SMALL = {"width": 16, "inner": 16, "layers": 1, "heads": 2, "base_steps": 6, "base_batch": 8, "puzzles": 30, "steps": 4,
         "prompts": 2, "group": 2, "mu": 2, "validate_every": 2, "validation_items": 4, "test_items": 4,
         "sandwich_items": 1, "sandwich_tokens": 2}  # fmt: skip


# --- The scale `paper` -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["sudoku", "countdown"])
@pytest.mark.parametrize("arm", ["spg_mix", "spg_eubo", "spg_no_negatives", "diffu_grpo", "unigrpo", "wd1"])
def test_the_scale_paper_has_the_published_hyper_parameters(task, arm):
    found = method_plan("spg", load_settings({"scale": "paper"}))
    config = job_config(Spg(), found, arm, task).model_dump(mode="json")
    wanted = published.COMMON | published.TASKS[task] | published.BASELINES.get(arm, {})
    if arm == "unigrpo":
        wanted = wanted | {"p_mask": 0.0}  # its prompts are whole
    assert {name: config[name] for name in wanted} == wanted
    assert config["pretrained"] == published.MODEL and found.seeds == [0]
    assert config["length"] // config["block"] * config["block_steps"] == 128  # network calls a completion


def test_the_scale_standard_runs_every_side_of_every_claim():
    found = plan(load_settings({"scale": "standard", "only": ["spg"]}))
    planned = {(key.arm, key.task) for key in found.jobs}
    for claim in load_claims(rooms()["spg"] / "claims.yaml"):
        assert arms_named(claim) <= planned, claim.id


OWN = {"objective", "negatives", "masking", "m", "epsilon", "kl", "p_mask"}  # what arms differ by


@pytest.mark.parametrize("scale", ["quick", "standard"])
def test_arms_share_data_budget_rate_and_stopping_rule(scale):
    """Every knob but those that make the method."""
    found = method_plan("spg", load_settings({"scale": scale}))
    for task in found.tasks:
        arms = (found.task_arms or {}).get(task, found.arms)
        shared = [job_config(Spg(), found, arm, task).model_dump(mode="json", exclude=OWN) for arm in arms]
        assert all(config == shared[0] for config in shared), task


def test_a_training_that_ends_half_way_or_at_its_best_is_rewarded_as_one_at_the_end():
    rows = [{"arm": arm, "task": "sudoku", "seed": seed, "name": "reward", "step": 1 + 4 * place, "value": start + place}
            for arm in ("spg_mix", "wd1") for seed, start in ((0, 0.0), (1, 100.0)) for place in range(40)]  # fmt: skip
    rows += [
        rows[0] | {"name": "train_reward", "step": None},
        rows[0] | {"name": "loss"},
        rows[0] | {"task": "countdown"},
    ]
    frame = pd.DataFrame(rows).sample(frac=1, random_state=0).astype({"step": "Int64"})

    class Kept:
        metrics = frame

    where = {"arm": "spg_mix", "task": "sudoku", "variant": "", "setting": ""}
    # Rollouts 10 to 19 of 40: as many as train_reward averages at the end.
    assert estimands.reward_half_way(Kept, **where).set_index("seed").value.to_dict() == {0: 14.5, 1: 114.5}
    assert estimands.best_reward(Kept, **where).set_index("seed").value.to_dict() == {0: 34.5, 1: 134.5}
    Kept.metrics = frame.assign(value=-frame.value)  # a training that only loses is best when its first ten are over
    assert estimands.best_reward(Kept, **where).set_index("seed").value.to_dict() == {0: -4.5, 1: -104.5}


def tiny_llada(folder) -> None:
    """A checkpoint with the published names, a byte-level tokenizer with a chat template, and 40 words of vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<|endoftext|>", "<|mdm_mask|>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", mask_token="<|mdm_mask|>")
    fast.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    fast.save_pretrained(folder)
    config = llada.LLaDAConfig(16, 2, 2, 16, len(vocabulary), 1, 0, 0, max_sequence_length=700)
    llada.save(llada.build(config, 0), folder)
    given = json.loads((folder / "config.json").read_text())
    assert given["model_type"] == "llada"


@pytest.mark.parametrize("task", ["sudoku", "countdown"])
def test_a_scaled_down_copy_of_the_scale_paper_trains(task, tmp_path):
    tiny_llada(tmp_path)
    change = {"pretrained": str(tmp_path), "lora_rank": 2, "length": 16, "block": 8, "block_steps": 2, "puzzles": 6,
              "prompts": 2, "group": 2, "accumulate": 2, "bf16": False, "validation_items": 2, "test_items": 2,
              "validate_every": 2}  # fmt: skip
    own = {"arms": ["spg_mix"], "tasks": [task], "config": change, "task_config": {task: {"steps": 2}}}
    settings = {"scale": "paper", "results": str(tmp_path / "results"), "only": ["spg"], "device": "cpu"}
    found = plan(load_settings(settings | {"methods": {"spg": own}}))
    assert not found.broken
    for process in found.ordered():
        assert run_process(found, process) == {}
    (key,) = [key for key in found.jobs if key.arm == "spg_mix"]
    model, given = llada.load(found.view(key).model)
    before, _ = llada.load(tmp_path)
    assert given["tycho"]["style"] == "tagged"
    changed = {n.split(".")[4] for n, v in model.state_dict().items() if not torch.equal(v, before.state_dict()[n])}
    # Rewards may all be zero here; then nothing but the decay of the adapters has moved, and that leaves them at zero.
    assert changed <= {"q_proj", "k_proj", "v_proj", "up_proj"}
    served = load(str(found.view(key).model))
    (completion,) = served(["2+2?"], Options(max_gen_toks=20))
    assert completion.generated_tokens == 24  # whole blocks


# --- Small models ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ["spg_mix", "diffu_grpo", "wd1", "unigrpo"])
def test_every_objective_runs_on_countdown(arm, tmp_path):
    own = {"arms": [arm], "tasks": ["countdown"], "seeds": 1, "config": SMALL}
    found = plan(load_settings({"scale": "smoke", "results": str(tmp_path), "only": ["spg"], "methods": {"spg": own}}))
    for process in found.ordered():
        assert run_process(found, process) == {}
    (key,) = [key for key in found.jobs if key.arm == arm]
    samples = found.view(key).record("samples")
    assert len(samples) == 4 and samples.score.between(0, 1).all()
    assert (samples.score == 1).equals(samples.correct)


@pytest.mark.parametrize(
    "change",
    [{}, {"negatives": "eubo"}, {"negatives": "elbo", "masking": "one_step"}, Spg.arms["diffu_grpo"].config,
     Spg.arms["wd1"].config, Spg.arms["unigrpo"].config],
)  # fmt: skip
def test_a_step_makes_better_completions_likelier_than_worse_ones(change):
    """Gradient ascent on fixed rollouts with one right answer each must raise its share, whatever the objective."""
    config = SpgConfig(**({"prompts": 4, "group": 4, "puzzles": 20, "width": 16, "inner": 16, "layers": 1} | change))
    world = worlds.terse("sudoku")
    policy = Policy(llada.build(train.small_config(world, config), 1), world)
    learner = Learner(policy, world, config, {"order": 1, "rollout": 2, "masks": 3}, 0)
    learner.roll_out(0)
    right = torch.arange(16) % 4 == 0
    rewards = right.float()
    advantages = (rewards.view(4, 4) - rewards.view(4, 4).mean(dim=1, keepdim=True)).flatten()
    learner.rollouts = learner.rollouts._replace(rewards=rewards, advantages=advantages)

    def gap() -> float:
        generator = torch.Generator().manual_seed(9)
        masks = block_masks_of(learner, generator)
        with torch.no_grad():
            log_p = policy.log_p(learner.rollouts.prompt, None, learner.rollouts.x, masks).mean(dim=(1, 2))
        return float(log_p[right].mean() - log_p[~right].mean())

    before = gap()
    optimiser = torch.optim.SGD(policy.parameters(), lr=0.5)
    learner.reference = learner._snapshot()
    for step in range(config.mu):
        optimiser.zero_grad()
        batch = learner.batch(step) if step else first_batch(learner)
        learner.loss(policy, batch).backward()
        optimiser.step()
    assert gap() > before


def block_masks_of(learner: Learner, generator: torch.Generator):
    from methods.spg import masking

    lengths = learner.rollouts.lengths
    return masking.block_masks(lengths, 16, 16, block=4, m=4, generator=generator)


def first_batch(learner: Learner):
    """Step 0 without sampling anew."""
    from methods.spg.learner import Batch

    masks = learner.masks(0, learner.rollouts)
    reference = None
    if learner.config.objective in ("diffu_grpo", "unigrpo"):
        with torch.no_grad():
            reference = learner._under(learner.reference, learner.rollouts, masks)
    return Batch(learner.rollouts, masks, None, reference)


def test_weights_are_put_back_after_the_reference_has_been_asked():
    config = SpgConfig(
        **({"prompts": 2, "group": 2, "puzzles": 8, "width": 16, "layers": 1} | Spg.arms["diffu_grpo"].config)
    )
    world = worlds.terse("sudoku")
    policy = Policy(llada.build(train.small_config(world, config), 1), world)
    learner = Learner(policy, world, config, {"order": 1, "rollout": 2, "masks": 3}, 0)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    now = {name: value.clone() for name, value in policy.state_dict().items()}
    learner.roll_out(0)
    masks = learner.masks(0, learner.rollouts)
    with torch.no_grad():
        of_reference = learner._under(learner.reference, learner.rollouts, masks)
        of_policy = learner._under(None, learner.rollouts, masks)
    assert not torch.allclose(of_reference, of_policy, atol=1e-3)
    assert all(torch.equal(value, now[name]) for name, value in policy.state_dict().items())


def test_old_log_probabilities_are_those_of_the_sampling_policy_under_the_same_masks():
    config = SpgConfig(
        **({"prompts": 2, "group": 2, "puzzles": 8, "width": 16, "layers": 1} | Spg.arms["unigrpo"].config)
    )
    world = worlds.terse("sudoku")
    policy = Policy(llada.build(train.small_config(world, config), 1), world)
    learner = Learner(policy, world, config, {"order": 1, "rollout": 2, "masks": 3}, 0)
    learner.batch(0)
    for index in (1, 2, 3):
        batch = learner.batch(index)
        log_p = policy.log_p(batch.rollouts.prompt, None, batch.rollouts.x, batch.masks)[:, 0]
        assert torch.allclose(batch.old, log_p, atol=1e-6)  # no step has been taken
    hidden = [int(learner.batch(index).masks.scored.sum()) for index in (0, 1, 2, 3)]
    assert hidden == sorted(hidden) and hidden[0] < hidden[-1]  # the noise rises within μ


# --- Serving ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small base after a few steps, saved as the room saves it."""
    folder = tmp_path_factory.mktemp("served")
    own = {"arms": ["wd1"], "tasks": ["sudoku"], "seeds": 1, "config": SMALL}
    found = plan(load_settings({"scale": "smoke", "results": str(folder), "only": ["spg"], "methods": {"spg": own}}))
    for process in found.ordered():
        assert run_process(found, process) == {}
    (key,) = [key for key in found.jobs if key.arm == "base"]
    return found.view(key).model


def test_a_trained_folder_completes_prompts_as_the_policy_does(trained):
    served = load(str(trained))
    prompts = ["1 0 0 4 0 0 1 0 0 1 0 0 4 0 0 1", "0 2 3 4 3 0 1 0 0 1 4 0 4 0 0 1"]
    found = served(prompts, Options(n=2, temperature=1.0, seed=3))
    assert len(found) == 4 and all(len(one.text.split()) == 16 for one in found)
    assert all(word in "1234" or word == "0" for one in found for word in one.text.split())
    assert [one.text for one in served(prompts, Options(n=2, temperature=1.0, seed=3))] == [one.text for one in found]
    assert found[0].forward_passes == 8 and found[0].flops > 0
    with pytest.raises(TychoError, match="no top_k or top_p"):
        served(prompts, Options(top_k=5))


def test_its_log_likelihood_is_a_lower_bound_of_the_enumerated_one(trained):
    """Two tokens: the mean over many masks comes close to the exact ELBO, which lies below log π."""
    from methods.spg import exact

    served = load(str(trained), draws=4000)
    assert isinstance(served, Served)
    prompt, continuation = "1 0 0 4 0 0 1 0 0 1 0 0 4 0 0 1", "3 2"
    ((found, greedy),) = served.loglikelihood([(prompt, continuation)])
    policy = served.policy
    c, x = (torch.tensor(policy.world.encode(text)) for text in (prompt, continuation))
    with torch.no_grad():
        table = exact.conditionals(
            lambda z: policy.log_softmax(policy.logits(c.expand(len(z), -1), None, z)),
            x,
            torch.arange(2),
            policy.world.mask_token,
        )
    assert found == pytest.approx(float(exact.elbo(table)), abs=0.02)
    assert float(exact.elbo(table)) <= float(exact.log_likelihood(table)) and isinstance(greedy, bool)


def test_greedy_reward_is_the_mean_over_puzzles(trained):
    policy = load(str(trained)).policy
    config = SpgConfig()
    puzzles = policy.world.held_out(6, "validation")
    alone = greedy_reward(policy, puzzles, config, most=1)
    assert greedy_reward(policy, puzzles, config) == pytest.approx(alone)
    assert yaml.safe_load((rooms()["spg"] / "scales.yaml").read_text())["smoke"]
