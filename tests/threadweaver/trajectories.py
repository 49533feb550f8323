"""Random trajectories and a tokenizer for them, shared by the tests of this folder."""

from __future__ import annotations

import re

from hypothesis import strategies as st

from methods.threadweaver.format import TAGS, render_block

LETTERS = "abc123 :\n"
SPECIAL = [f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/")]
VOCABULARY = ["<eos>", *SPECIAL, *LETTERS, *"0456789ABC?="]
EOS = 0
_ID = {token: place for place, token in enumerate(VOCABULARY)}
_TOKEN = re.compile("|".join(map(re.escape, SPECIAL)) + "|.", re.DOTALL)


def encode(text: str) -> list[int]:
    """Tags are one token, everything else a token a character."""
    return [_ID[token] for token in _TOKEN.findall(text)]


words = st.text(alphabet=LETTERS, max_size=5)


@st.composite
def trajectories(draw: st.DrawFn, most_blocks: int = 3, most_threads: int = 4) -> tuple[str, str, list[list[str]]]:
    """A prompt, a canonical response, and the threads' texts by block."""
    text, blocks = draw(words), []
    for _ in range(draw(st.integers(0, most_blocks))):
        threads = draw(st.lists(words, min_size=1, max_size=most_threads))
        outlines = draw(st.lists(words, min_size=len(threads), max_size=len(threads)))
        text += render_block(outlines, threads) + draw(words)
        blocks.append(threads)
    return draw(st.sampled_from(["?", "ABC?", "A=?\n"])), text, blocks


soup = st.lists(
    st.sampled_from([*SPECIAL, "\n", "1:", "2:", " ", "x", "<", ">", "</", "٣:", "9" * 5000]) | words, max_size=25
)
