"""The published settings of Token Assorted (arXiv 2502.03275) that scale `paper` uses, and its table, with where they stand.

No official code exists; what is marked second-hand was read in stored notes of the paper, not in its text.
"""

from __future__ import annotations

CHUNK = 16  # L; the compression rate r is 16 too, so a chunk has one code (section 3.1; second-hand)
CODEBOOK = 1024  # for mathematics (experimental settings; second-hand)
MAXIMA = (
    0,
    72,
    128,
    160,
    192,
    224,
    256,
)  # choices of m_max, in tokens; 72 is no multiple of 16 (section 4; second-hand)
VQVAE_STEPS, VQVAE_BATCH, VQVAE_RATE = 100_000, 32, 1e-5  # Adam (appendix; second-hand)
MODEL = "meta-llama/Llama-3.2-1B"

# arm -> (accuracy in %, generated tokens) on ProsQA, Table 4.1; Sol-Only and CoT are Coconut's numbers.
PROSQA = {"sol_only": (76.7, 8.2), "cot": (77.5, 49.4), "latent": (96.2, 10.9)}
# Average over the mathematics tests of Llama-3.1-8B by kind of replacement, in % (ablation; second-hand).
REPLACEMENT = {"all_replace": 15.0, "curriculum_replace": 15.8, "poisson_replace": 36.3, "latent": 37.9}


def chunks(tokens: int) -> int:
    """Whole chunks of that many tokens."""
    return tokens // CHUNK
