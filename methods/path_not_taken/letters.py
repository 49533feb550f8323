"""A short task with a verifier for a real model: name the last letter of a made-up word."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

EXAMPLES = ("table", "garden", "music", "robot")
CONSONANTS, VOWELS = "bcdfghjklmnprstvz", "aeiou"


def words(n: int, seed: int) -> list[str]:
    """n different pronounceable words of two or three syllables, the last one closed by any letter."""
    rng = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < n:
        syllables = [rng.choice(list(CONSONANTS)) + rng.choice(list(VOWELS)) for _ in range(rng.integers(2, 4))]
        found["".join(syllables) + rng.choice(list(CONSONANTS + VOWELS))] = None
    return list(found)


def prompt(word: str) -> str:
    """Four examples and the word, spelled out: a completion of one token, for models with and without a chat template."""
    return "".join(f"{' '.join(shown)}: {shown[-1]}\n" for shown in EXAMPLES) + f"{' '.join(word)}:"


def reply(word: str) -> str:
    """The right continuation."""
    return f" {word[-1]}"


def is_right(answer: str, word: str) -> bool:
    """The answer's first letter, whatever stands around it."""
    letters = [character for character in answer.lower() if character.isalpha()]
    return bool(letters) and letters[0] == word[-1]


@torch.no_grad()
def answers(model: Any, tokenizer: Any, asked: list[str], *, batch: int = 25) -> list[str]:
    """The greedy next token for each word."""
    from tycho.lm.examples import left_padded
    from tycho.lm.sampling import generate

    found = []
    for start in range(0, len(asked), batch):
        prompts = [
            tokenizer(prompt(word), add_special_tokens=False)["input_ids"] for word in asked[start : start + batch]
        ]
        made = generate(model, *left_padded(prompts, tokenizer.pad_token_id), most=1, stop=[tokenizer.eos_token_id])
        found += [tokenizer.decode(row, skip_special_tokens=True) for row in made.rows()]
    return found
