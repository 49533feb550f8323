"""Trajectories of word-level vocabularies: text that the state machine reads, and the ids that a model writes.

A word stands behind a blank, a tag behind nothing, so that what a model writes may follow whatever text is there:
`<Thread>` + ` 1:` + ` 3 5 1 ;` + `</Thread>`. The line breaks that the machine puts in have no token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from methods.threadweaver.format import TAGS
from methods.threadweaver.metrics import Tags
from tycho.lm.vocabulary import Vocabulary

_TAG = re.compile(rf"(</?(?:{'|'.join(TAGS)})>)")


class Words:
    """A vocabulary as a tokenizer of trajectories. decode(encode(text)) spells as `decode` does; encode(decode(ids)) is ids."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary, self.ids = vocabulary, vocabulary.ids
        self._spelt = [token if _TAG.fullmatch(token) else f" {token}" for token in vocabulary.tokens]
        self.end = vocabulary.end

    @classmethod
    def of(cls, tokenizer: object) -> Words:
        """Of a saved model's word-level tokenizer."""
        ids = tokenizer.get_vocab()  # type: ignore[attr-defined]
        listed = sorted(ids, key=ids.__getitem__)
        return cls(Vocabulary(tuple(listed[3:])))

    def encode(self, text: str) -> list[int]:
        """Ids; a word that the vocabulary lacks is <unk>, for no text may raise."""
        return [self.ids.get(word, 2) for word in _TAG.sub(r" \1 ", text).split()]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        return "".join([self._spelt[number] for number in ids])

    @property
    def tags(self) -> Tags:
        """The ids that the critical path looks at."""
        return Tags(*(self.ids[tag] for tag in ("<Parallel>", "</Parallel>", "<Thread>", "</Thread>")))
