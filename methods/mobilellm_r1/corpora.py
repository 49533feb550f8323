"""Six procedural corpora, and the sets that ask for three capabilities. Numbers, not text: token ids by numpy.

math       chains of sums and differences; each step goes on from the last result
code       programs in postfix order for a stack of numbers, with the result behind each operation
knowledge  facts of one fixed world: an entity, a relation, its value
Numbers go from 0 to 6; sums stop at 6, differences at 0 (tables mod 7 were not learnt at this size in 600 steps). The first
two domains share a sub-skill, the tables of + and -; the third shares none with them.

The corpora are `chains`, `programs` and `facts`, and three that a recipe should not fall for: `noisy` (the same
documents with most results wrong), `duplicated` (twelve right documents over and over) and `decoy` (random tokens: a
large gradient and no skill).

Every document is an opening word, 24 tokens and the end token, so that equal documents are equal tokens. A template is
an opening and a separator. Of a domain's 16 templates the corpora use 8, probing and validation 4, the test 4 others.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tycho.errors import unknown
from tycho.lm.vocabulary import Vocabulary

NUMBERS = 7
ENTITIES, RELATIONS, VALUES = 24, 4, 16
SEPARATORS = (";", ",", "|", "/")
OPENINGS = {
    "math": ("calc", "work", "sum", "find"),
    "code": ("run", "prog", "exec", "do"),
    "knowledge": ("note", "know", "recall", "say"),
}
CAPABILITIES = tuple(OPENINGS)
CORPORA = ("chains", "programs", "facts", "noisy", "duplicated", "decoy")
OWN = dict(zip(CAPABILITIES, CORPORA, strict=False))  # the corpus of each capability's own domain
LENGTH = 26
NOISE = 0.7  # share of the results in `noisy` that are drawn at random
DUPLICATES = 12  # documents of `duplicated`
BLOCK = 512  # documents that are drawn together

# Groups of templates: opening i and separator j belong to group (i + j) mod 4.
GROUPS = {"corpora": (2, 3), "probing": (0,), "validation": (0,), "test": (1,)}

WORDS = Vocabulary(
    (
        *map(str, range(NUMBERS)), "+", "-", "=", *SEPARATORS, *(w for words in OPENINGS.values() for w in words),
        *(f"e{i}" for i in range(ENTITIES)), *(f"r{i}" for i in range(RELATIONS)), *(f"v{i}" for i in range(VALUES)),
    )
)  # fmt: skip
DIGIT, ENTITY, RELATION, VALUE = (WORDS[first] for first in ("0", "e0", "r0", "v0"))
OPERATIONS = np.array([WORDS["+"], WORDS["-"]])
NO_SEPARATOR = np.setdiff1d(np.arange(3, len(WORDS)), [WORDS[s] for s in SEPARATORS])
WORLD = np.random.default_rng(zlib.crc32(b"world")).integers(0, VALUES, (ENTITIES, RELATIONS))


@dataclass(frozen=True, eq=False)
class Documents:
    """ids [n, 26] int64; answers [n, 26] bool: the tokens that the skill determines."""

    ids: np.ndarray
    answers: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: np.ndarray | slice) -> Documents:
        return Documents(self.ids[rows], self.answers[rows])


def join(parts: list[Documents]) -> Documents:
    """One after the other."""
    return Documents(np.concatenate([p.ids for p in parts]), np.concatenate([p.answers for p in parts]))


# --- Domains -------------------------------------------------------------------------------------------------------


def _result(a: np.ndarray, b: np.ndarray, op: np.ndarray, rng: np.random.Generator, noise: float) -> np.ndarray:
    """a + b or a - b, kept within 0 … 6; a random number instead with probability `noise`."""
    right = np.where(op == 0, a + b, a - b).clip(0, NUMBERS - 1)
    return _spoilt(right, NUMBERS, rng, noise)


def _spoilt(right: np.ndarray, most: int, rng: np.random.Generator, noise: float) -> np.ndarray:
    if not noise:
        return right
    return np.where(rng.random(right.shape) < noise, rng.integers(0, most, right.shape), right)


def _chains(rng: np.random.Generator, n: int, separator: np.ndarray, noise: float) -> tuple[np.ndarray, list[int]]:
    """`a + b = c ;` four times; the next a is c."""
    equals = np.full(n, WORDS["="])
    columns, a = [], rng.integers(0, NUMBERS, n)
    for _ in range(4):
        op, b = rng.integers(0, 2, n), rng.integers(0, NUMBERS, n)
        c = _result(a, b, op, rng, noise)
        columns += [DIGIT + a, OPERATIONS[op], DIGIT + b, equals, DIGIT + c, separator]
        a = c
    return np.stack(columns, 1), [4]


def _programs(rng: np.random.Generator, n: int, separator: np.ndarray, noise: float) -> tuple[np.ndarray, list[int]]:
    """`a b + r c - r ;` or `a b c + r - r ;` three times: an operation takes the two numbers on top of the stack."""
    columns = []
    for _ in range(3):
        a, b, c = rng.integers(0, NUMBERS, (3, n))
        first, second = rng.integers(0, 2, (2, n))
        nested = rng.random(n) < 0.5
        inner = np.where(nested, _result(b, c, first, rng, noise), _result(a, b, first, rng, noise))
        outer = np.where(nested, _result(a, inner, second, rng, noise), _result(inner, c, second, rng, noise))
        plain = [DIGIT + a, DIGIT + b, OPERATIONS[first], DIGIT + inner, DIGIT + c, OPERATIONS[second], DIGIT + outer]
        deep = [DIGIT + a, DIGIT + b, DIGIT + c, OPERATIONS[first], DIGIT + inner, OPERATIONS[second], DIGIT + outer]
        columns += [np.where(nested, d, p) for d, p in zip(deep, plain, strict=True)] + [separator]
    return np.stack(columns, 1), []


def _facts(rng: np.random.Generator, n: int, separator: np.ndarray, noise: float) -> tuple[np.ndarray, list[int]]:
    """`e r v ;` six times."""
    columns = []
    for _ in range(6):
        e, r = rng.integers(0, ENTITIES, n), rng.integers(0, RELATIONS, n)
        v = _spoilt(WORLD[e, r], VALUES, rng, noise)
        columns += [ENTITY + e, RELATION + r, VALUE + v, separator]
    return np.stack(columns, 1), [2]


_BODIES: dict[str, Callable] = {"math": _chains, "code": _programs, "knowledge": _facts}


def _answers(capability: str, body: np.ndarray) -> np.ndarray:
    """[n, 24] bool: results of chains and programs, values of facts."""
    column = np.arange(24)
    if capability == "math":
        return np.broadcast_to(column % 6 == 4, body.shape)
    if capability == "knowledge":
        return np.broadcast_to(column % 4 == 2, body.shape)
    after_operation = np.isin(np.roll(body, 1, axis=1), OPERATIONS)
    return after_operation & (column > 0)


def domain(capability: str, rng: np.random.Generator, n: int, group: str, noise: float = 0.0) -> Documents:
    """n documents of a domain in the templates of a group."""
    if capability not in _BODIES:
        raise unknown("capability", capability, _BODIES)
    opening = rng.integers(0, 4, n)
    separator = (rng.choice(GROUPS[group], n) - opening) % 4
    first = np.array([WORDS[w] for w in OPENINGS[capability]])[opening]
    body, _ = _BODIES[capability](rng, n, np.array([WORDS[w] for w in SEPARATORS])[separator], noise)
    return _framed(first, body, _answers(capability, body))


def _framed(opening: np.ndarray, body: np.ndarray, answers: np.ndarray) -> Documents:
    edge = np.zeros((len(body), 1), bool)
    ids = np.concatenate([opening[:, None], body, np.full((len(body), 1), WORDS.end)], 1)
    return Documents(ids, np.concatenate([edge, answers, edge], 1))


def mixed(rng: np.random.Generator, n: int, group: str, noise: float = 0.0) -> Documents:
    """The three domains in turn."""
    parts = [domain(c, rng, -(-n // 3), group, noise) for c in CAPABILITIES]
    return join(parts).select(np.arange(3 * len(parts[0])).reshape(3, -1).T.flatten()[:n])


# --- Corpora -------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Corpus:
    """An endless corpus: document i is the same whenever and in whatever portions it is read."""

    name: str
    seed: int
    _blocks: dict[int, Documents] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.name not in CORPORA:
            raise unknown("corpus", self.name, CORPORA)

    def read(self, start: int, n: int) -> Documents:
        """Documents start … start + n - 1."""
        if self.name == "duplicated":
            return self._block(0).select((start + np.arange(n)) % DUPLICATES)
        first, last = start // BLOCK, (start + max(n, 1) - 1) // BLOCK
        found = join([self._block(b) for b in range(first, last + 1)])
        return found.select(slice(start - first * BLOCK, start - first * BLOCK + n))

    def _block(self, number: int) -> Documents:
        if number not in self._blocks:
            rng = np.random.default_rng([self.seed, CORPORA.index(self.name), number])
            self._blocks[number] = self._draw(rng)
        return self._blocks[number]

    def _draw(self, rng: np.random.Generator) -> Documents:
        if self.name == "noisy":
            return mixed(rng, BLOCK, "corpora", NOISE)
        if self.name == "duplicated":
            return mixed(rng, DUPLICATES, "corpora")
        if self.name == "decoy":
            body = rng.integers(3, len(WORDS), (BLOCK, 25))
            body[:, -1] = rng.choice(NO_SEPARATOR, BLOCK)  # so that none has a template's form
            return _framed(body[:, 0], body[:, 1:], np.ones((BLOCK, 24), bool))
        capability = next(c for c, own in OWN.items() if own == self.name)
        return domain(capability, rng, BLOCK, "corpora")


def gather(seed: int, corpus: np.ndarray, document: np.ndarray) -> np.ndarray:
    """[n, 26] documents by corpus [n] (a place in `CORPORA`) and number within it [n], each corpus read once."""
    ids = np.empty((len(corpus), LENGTH), np.int64)
    for k in np.unique(corpus):
        rows = corpus == k
        numbers = document[rows]
        first = int(numbers.min())
        ids[rows] = Corpus(CORPORA[k], seed).read(first, int(numbers.max()) - first + 1).ids[numbers - first]
    return ids


def held_out(capability: str, split: str, n: int) -> Documents:
    """The first n documents of a probing, validation or test set; the same for all arms and seeds."""
    if split not in GROUPS or split == "corpora":
        raise unknown("split", split, ("probing", "validation", "test"))
    name = zlib.crc32(f"{split}/{capability}".encode())
    blocks = range(1, 1 + max(1, -(-n // BLOCK)))
    found = [domain(capability, np.random.default_rng([name, block]), BLOCK, split) for block in blocks]
    return join(found).select(slice(n))


def guessing_loss(asked: Documents) -> float:
    """The loss, in nats a token, of always giving the answers' own frequencies: what is reached without any skill."""
    counts = np.bincount(asked.ids[asked.answers])
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
