"""A language model together with what it does before it answers: think, pause, or neither. Saved as one folder."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from methods.coconut.curriculum import Fill, enclosed
from methods.coconut.thoughts import Marks, think
from tycho.errors import TychoError
from tycho.lm import small
from tycho.lm.examples import left_padded
from tycho.lm.flops import generate_flops
from tycho.lm.sampling import Generation, Sampling, decode

# The marks' words, as the common vocabularies have them.
BEGIN, END, THOUGHT, PAUSE = "<thought>", "</thought>", "[T]", "[PAUSE]"


GREEDY = Sampling()


class Cost(NamedTuple):
    """Of one completion, as `tycho.harness.Completion` has it."""

    generated_tokens: int
    sequential_tokens: int
    forward_passes: int
    flops: float


@dataclass
class Thinker:
    """A causal LM, its tokenizer, and how many thoughts or pauses (`fill`) it takes between prompt and answer.

    `Thinker.load(folder)` brings back what `save` wrote. The folder is an ordinary checkpoint: any Hugging Face program
    loads it by `from_pretrained`, and finds the rest in the config's entry `coconut`.
    """

    model: nn.Module
    tokenizer: Any
    fill: Fill = "thoughts"
    thoughts: int = 0
    marked: bool = True

    def between(self, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What stands between prompts and continuations, as `curriculum.enclosed` has it, for so many thoughts a row."""
        if self.fill == "nothing" and not self.marked:
            nothing = torch.zeros(len(counts), 0, dtype=torch.long, device=counts.device)
            return nothing, nothing.bool(), nothing.bool()
        counts = counts * (self.fill != "nothing")
        return enclosed(counts, self.fill, find_marks(self.tokenizer), self.marked)

    def save(self, folder: Path) -> None:
        self.model.config.coconut = {"fill": self.fill, "thoughts": self.thoughts, "marked": self.marked}
        small.save(self.model, self.tokenizer, folder)

    @classmethod
    def load(cls, source: str | Path, *, device: str = "cpu", revision: str | None = None) -> Thinker:
        model, tokenizer = small.load(source, device=device, revision=revision)
        about = getattr(model.config, "coconut", None)
        if about is None:
            raise TychoError(f"{source} is no model that methods/coconut trained: its config has no entry 'coconut'")
        return cls(model.eval(), tokenizer, **about)

    @torch.no_grad()
    def generate(
        self,
        ids: Tensor,
        mask: Tensor,
        *,
        most: int,
        thoughts: int | Tensor | None = None,
        stop: Collection[int] | None = None,
        sampling: Sampling = GREEDY,
        generator: torch.Generator | None = None,
    ) -> Generation:
        """Continues right-aligned prompts [n, P] after their thoughts: the words written, at most `most`.

        thoughts: a number, or one a row [n]; None: those the model was trained for. The marks count as given, not written.
        """
        counts = torch.as_tensor(self.thoughts if thoughts is None else thoughts, device=ids.device).expand(len(ids))
        found = think(self.model, ids, mask, self.between(counts))
        return decode(
            self.model,
            found.cache,
            found.logits,
            found.mask,
            most=most,
            stop=[self.tokenizer.eos_token_id] if stop is None else stop,
            sampling=sampling,
            generator=generator,
        )

    def answer_all(
        self, prompts: Sequence[Sequence[int]], *, batch: int = 256, **options: Any
    ) -> list[tuple[list[int], Cost]]:
        """Token lists in, (words written, cost) out, in batches of prompts."""
        found = []
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        count = self.thoughts if options.get("thoughts") is None else int(options["thoughts"])
        for start in range(0, len(prompts), batch):
            some = [list(row) for row in prompts[start : start + batch]]
            ids, mask = (part.to(self.model.device) for part in left_padded(some, pad))
            written = self.generate(ids, mask, **options)
            rows = written.rows()
            found += [(row, self.cost(len(prompt), len(row), count)) for prompt, row in zip(some, rows, strict=True)]
        return found

    def cost(self, prompt: int, written: int, count: int) -> Cost:
        """What a completion of `written` words after a prompt and `count` thoughts or pauses takes.

        A thought is one more step on the critical path, as a word is, and counts as generated (as in the paper's Table 1).
        Pauses and marks are passed in with the prompt: they cost FLOPs and no step.
        """
        config, vocabulary = self.model.config, getattr(self.model.get_output_embeddings(), "produced", None)
        given = prompt + 2 * self.marked + (0 if self.fill == "nothing" else count)
        flops = float(generate_flops(config, given, written, vocabulary=vocabulary))
        steps = written + (count if self.fill == "thoughts" else 0)
        return Cost(steps, steps, steps, flops)


def find_marks(tokenizer: Any) -> Marks:
    """The ids of the marks. Raises TychoError where a tokenizer lacks one (`add_marks` gives them to any)."""
    ids = [tokenizer.convert_tokens_to_ids(word) for word in (BEGIN, END, THOUGHT, PAUSE)]
    lacking = [w for w, i in zip((BEGIN, END, THOUGHT, PAUSE), ids, strict=True) if i in (None, tokenizer.unk_token_id)]
    if lacking:
        raise TychoError(f"the tokenizer lacks the marks {lacking}: add_marks gives them to it")
    return Marks(*ids)


def add_marks(model: nn.Module, tokenizer: Any, like: str = "<<") -> None:
    """Adds the marks to a pretrained model and its tokenizer, in place; what they mean is at first what `like` means.

    The published code starts them from the token `<<`. Both embeddings are set, input and output: setting one only is
    enough with tied embeddings alone, where they are the same.
    """
    before = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": [BEGIN, END, THOUGHT, PAUSE]})
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    if len(tokenizer) == before:
        return
    model.resize_token_embeddings(max(len(tokenizer), model.config.vocab_size), mean_resizing=False)
    pattern = tokenizer(like, add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            table[before : len(tokenizer)] = table[pattern]
