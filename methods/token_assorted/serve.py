"""A trained checkpoint as lm-eval's model: `tycho lm-eval --model token_assorted --model_args pretrained=FOLDER --tasks …`.

The model emits its codes itself, so it is served as any causal LM; codes and delimiters count as generated tokens.
"""

from __future__ import annotations

from methods.coconut.model import Thinker
from methods.coconut.serve import Served
from tycho.lm import small


def load(pretrained: str, *, device: str = "cpu", batch: int = 256) -> Served:
    """The folder of any arm but `codes`."""
    model, tokenizer = small.load(pretrained, device=device)
    return Served(Thinker(model.eval(), tokenizer, "nothing", 0, False), batch=int(batch))
