"""The paper's models, sampling settings, data sets and budgets (arXiv 2508.15260), each with where it was read.

Revisions: neither the paper nor its code names commits of models or data sets, so none stands here. A run on published sets
names them itself: `revision` is the server's business (vLLM's `--revision`), `data` takes `hub://owner/name@commit/file`.
"""

from __future__ import annotations

from dataclasses import dataclass

ASKED = (
    "\n\nPlease reason step by step, and put your final answer within \\boxed{}."  # "reason step by step … \boxed{}"
)


@dataclass(frozen=True)
class Model:
    """A model of the paper with its sampling settings; `most` is the limit of a trace's tokens."""

    served: str  # hub id
    temperature: float
    top_p: float
    top_k: int  # 0: off
    most: int
    source: str
    effort: str = ""  # reasoning effort that the request asks for


MODELS = {
    "deepseek_8b": Model(
        "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", 0.6, 0.95, 0, 64_000, "public code: examples and branch reproduce"
    ),
    "qwen3_8b": Model("Qwen/Qwen3-8B", 0.6, 0.95, 20, 32_000, "paper, Table 11 (second-hand)"),
    "qwen3_32b": Model("Qwen/Qwen3-32B", 0.6, 0.95, 20, 32_000, "paper, Table 11 (second-hand)"),
    "gpt_oss_20b": Model("openai/gpt-oss-20b", 1.0, 1.0, 40, 130_000, "public code: offline script", "high"),
    "gpt_oss_120b": Model("openai/gpt-oss-120b", 1.0, 1.0, 40, 130_000, "public code: offline script", "high"),
}


@dataclass(frozen=True)
class Questions:
    """A published set: where it lies on the hub. Answers are boxed, GPQA's letters too."""

    says: str
    hub: str
    source: str


OWN = "public code: made from MathArena's data sets"
SETS = {
    "aime24": Questions("AIME 2024", "HuggingFaceH4/aime_2024", "the paper's set, this copy of our choice"),
    "aime25": Questions("AIME 2025", "MathArena/aime_2025", OWN),
    "brumo25": Questions("BRUMO 2025", "MathArena/brumo_2025", OWN),
    "hmmt25": Questions("HMMT February 2025", "MathArena/hmmt_feb_2025", OWN),
    "gpqa": Questions("GPQA Diamond", "Idavidrein/gpqa", "the paper's set, this copy of our choice"),
    # Not in this paper but in ThreadWeaver's, so that both methods can be held against each other.
    "amc23": Questions("AMC 2023", "math-ai/amc23", "arXiv 2512.07843"),
    "math500": Questions("MATH-500", "HuggingFaceH4/MATH-500", "arXiv 2512.07843"),
}

POOL, RESAMPLES = 4096, 64  # offline: working sets of K traces out of a pool
BUDGETS = (32, 64, 128, 256, 512)  # K offline and B online; 512 is the headline
WARMUP, WINDOW, K, TAU = 16, 2048, 20, 0.95
