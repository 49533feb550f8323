from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tycho.errors import TychoError
from tycho.lm.examples import encode
from tycho.lm.vocabulary import Vocabulary
from tycho.tasks import graph_text, graphs, published

WORDS = graph_text.vocabulary(6, ["<latent>"])


def test_ids_by_hand():
    assert WORDS.tokens[:4] == ["<pad>", "<eos>", "<unk>", "[Q]"]
    assert (WORDS.pad, WORDS.end) == (WORDS["<pad>"], WORDS["<eos>"])
    assert WORDS.tokens[WORDS.produced - 1] == "5" and WORDS.tokens[WORDS.produced] == "0>0"
    assert len(WORDS) == len(WORDS.tokens) == len(WORDS.ids) == 3 + 7 + 6 + 36
    for source in range(6):
        assert WORDS.tokens[WORDS.node(np.array(source))] == str(source)
        for target in range(6):
            assert WORDS.tokens[WORDS.edge(np.array(source), np.array(target))] == f"{source}>{target}"


def test_mistakes_are_named():
    with pytest.raises(TychoError, match=r"unknown word '<latnt>': did you mean '<latent>'"):
        WORDS["<latnt>"]
    with pytest.raises(ValueError, match="lists a word twice"):
        Vocabulary(("a", "b", "a"))
    with pytest.raises(ValueError, match="lists a word twice"):
        Vocabulary(("3",), nodes=5)


@pytest.fixture(scope="module", params=["made", "loaded"])
def tokenizer(request, tmp_path_factory):
    made = WORDS.tokenizer()
    if request.param == "made":
        return made
    folder = tmp_path_factory.mktemp("tokenizer")
    made.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@settings(max_examples=50)
@given(st.lists(st.integers(0, len(WORDS) - 1), min_size=1, max_size=30))
def test_the_tokenizer_is_the_same_mapping(tokenizer, ids):
    text = WORDS.write(ids)
    assert tokenizer(text)["input_ids"] == ids == WORDS.read(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer(f"  {text}\n")["input_ids"] == ids


def test_what_a_loaded_tokenizer_knows(tokenizer):
    assert len(tokenizer) == len(WORDS)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    assert tokenizer("3>4 what 5")["input_ids"] == [WORDS["3>4"], WORDS["<unk>"], WORDS["5"]]
    batch = tokenizer(["0>1 [Q]", "[Q]"], padding=True)
    assert batch["input_ids"] == [[WORDS["0>1"], WORDS["[Q]"]], [0, WORDS["[Q]"]]]
    assert batch["attention_mask"] == [[1, 1], [0, 1]]
    assert tokenizer.decode([WORDS["5"], WORDS["<eos>"]], skip_special_tokens=True) == "5"


def test_sentences_need_no_spaces_before_their_marks(tmp_path):
    words = graph_text.sentence_vocabulary(["<latent>"])
    words.tokenizer().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = "Every impus is a rempus. Is Tom a rempus or gorpus?"
    ids = tokenizer(text)["input_ids"]
    assert words.write(ids) == "Every impus is a rempus . Is Tom a rempus or gorpus ?"
    assert ids == words.read(text) == tokenizer(tokenizer.decode(ids))["input_ids"]


def test_the_sentence_vocabulary_knows_every_word_of_the_task():
    items = [
        published.Item(i["question"], tuple(i["steps"]), i["answer"])
        for i in graph_text.sentences(graphs.published(50, 0), 0)
    ]
    words = graph_text.sentence_vocabulary()
    batch = encode(words.tokenizer(), items).sequences()
    assert not (batch.ids == words["<unk>"]).any()
    last = words.write(batch.ids[0][batch.mask[0]].tolist())
    assert last.endswith(items[0].answer.replace(".", " .") + " <eos>") and "### " in last
