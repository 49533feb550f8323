"""Hyper-parameters of SPG as published, by the names of this room's knobs. The scale `paper` takes them; a test compares.

Sources: the paper (arXiv 2510.09541v3, appendix on training, Tables 12, 13 and 20) and the public code
(facebookresearch/SPG, training scripts and Slurm files), read second-hand from notes on both.
"""

from __future__ import annotations

MODEL = "GSAI-ML/LLaDA-8B-Instruct"

# Of all tasks. 96 completions a gradient step: 6 on each of 8 GPUs, twice accumulated (Sudoku: 3 on each, four times).
COMMON = {
    "lora_rank": 128, "lora_alpha": 64, "lora_dropout": 0.05,  # code
    "lora_targets": ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"],  # code
    "rate": 3e-6, "betas": [0.9, 0.99], "weight_decay": 0.1, "clip": 0.2,  # both
    "group": 6, "mu": 4, "m": 2,  # both
    "prompts": 96 // 6,  # code
    "length": 256, "block": 32, "block_steps": 16, "temperature": 0.9,  # both: 256 tokens in 128 steps
    "p_mask": 0.15, "min_t": 0.0, "max_t": 1.0,  # code
    "omega": 0.5,  # both
    "validate_every": 100, "test_items": 256,  # paper
}  # fmt: skip

TASKS = {
    "sudoku": {"temperature": 0.3, "beta": 1.0, "steps": 2500},  # paper; code for the temperature
    "countdown": {"beta": 1.5, "steps": 6000},  # paper; EUBO alone has 2.0 there
}

# Of the baselines, as their own code has them (d1, and UniGRPO in Gen-Verse/dLLM-RL).
BASELINES = {
    "diffu_grpo": {"epsilon": 0.5, "kl": 0.04, "reference_every": 64},
    "unigrpo": {"epsilon": 0.2, "kl": 0.01},
}
