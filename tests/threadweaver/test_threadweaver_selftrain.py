"""The self-training filter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trajectories import soup

from methods.deepconf.answers import finder
from methods.threadweaver.format import is_correct, render_block
from methods.threadweaver.selftrain import answers_right, keep

GOOD = render_block([" a", " b"], [" x", " y"]) + r"so \boxed{7}"


def test_kept_are_the_well_formed_and_correct() -> None:
    broken, plain = GOOD.replace("<Thread>\n2:", "<Thread>\n3:"), r"no fork, \boxed{7.0}"
    responses = [GOOD, broken, plain, GOOD.replace("7", "8"), broken.replace("7", "8"), "no answer"]
    right = answers_right(responses, ["7"] * 6)
    assert right.tolist() == [True, True, True, False, False, False]
    found = keep(responses, right)
    assert found.mask.tolist() == [True, False, True, False, False, False]
    assert found.counts == {"kept": 2, "malformed": 1, "wrong": 2, "malformed and wrong": 1}
    assert found.problems == {"thread_number": 2}
    assert keep(responses, right, need_block=True).mask.tolist() == [True, False, False, False, False, False]


def test_other_ways_to_state_the_answer() -> None:
    assert answers_right(["#### 1,000", "####"], ["1000", "1"], finder("hashes")).tolist() == [True, False]


@given(st.lists(st.tuples(soup.map("".join), st.booleans()), max_size=8))
def test_any_rollouts_are_sorted_without_a_fault(pairs: list[tuple[str, bool]]) -> None:
    found = keep([text for text, _ in pairs], [right for _, right in pairs])
    assert found.mask.tolist() == [right and is_correct(text) for text, right in pairs]
    assert sum(found.counts.values()) == len(pairs)


def test_unequal_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="1 responses"):
        keep(["a"], [True, False])
