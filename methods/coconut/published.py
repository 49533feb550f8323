"""Numbers of the paper (arXiv 2412.06769v2, Table 1) and hyper-parameters of its code, for scale `paper` and its test."""

from __future__ import annotations

# arm -> (accuracy in %, tokens generated, thoughts among them). iCoT on GSM8K is quoted there from its own paper.
TABLE_1 = {
    "gsm8k": {
        "cot": (42.9, 25.0),
        "no_cot": (16.5, 2.2),
        "icot": (30.0, 2.2),
        "coconut": (34.1, 8.2),
        "no_curriculum": (14.4, 8.2),
        "no_thought": (21.6, 2.3),
        "pause_as_thought": (24.1, 2.2),
    },
    "prontoqa": {
        "cot": (98.8, 92.5),
        "no_cot": (93.8, 3.0),
        "icot": (99.8, 3.0),
        "coconut": (99.8, 9.0),
        "no_curriculum": (52.4, 9.0),
        "no_thought": (99.9, 3.0),
        "pause_as_thought": (100.0, 3.0),
    },
    "prosqa": {
        "cot": (77.5, 49.4),
        "no_cot": (76.7, 8.2),
        "icot": (98.2, 8.2),
        "coconut": (97.0, 14.2),
        "no_curriculum": (76.1, 14.2),
        "no_thought": (95.5, 8.2),
        "pause_as_thought": (96.6, 8.2),
    },
}

# What the public code trains with (facebookresearch/coconut, args/*.yaml): GPT-2 124M, AdamW, constant rate, no warm-up, no
# clipping, fp32; batches of 32 on each of four GPUs. Sizes of the training sets: the paper's Table 3.
TRAINING_ITEMS = {"gsm8k": 385_620, "prontoqa": 9_000, "prosqa": 17_886}
BATCH = 128
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 0.01
# thoughts a step, stages with thoughts, epochs a stage, epochs in all, epochs that a CoT checkpoint stands for.
CURRICULA = {
    "gsm8k": {"per_step": 2, "latent_steps": 3, "epochs_per_stage": 3, "epochs": 25, "from_cot": 3},
    "prontoqa": {"per_step": 1, "latent_steps": 6, "epochs_per_stage": 5, "epochs": 50, "from_cot": 0},
    "prosqa": {"per_step": 1, "latent_steps": 6, "epochs_per_stage": 5, "epochs": 50, "from_cot": 0},
}


def steps_per_epoch(task: str) -> int:
    """Whole batches in an epoch."""
    return TRAINING_ITEMS[task] // BATCH
