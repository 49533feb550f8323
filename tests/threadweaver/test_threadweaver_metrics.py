"""The critical path against a token-by-token transcription, and the paper's own arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trajectories import SPECIAL, VOCABULARY, encode, soup, trajectories

from methods.threadweaver.format import render_block
from methods.threadweaver.metrics import (
    Path,
    Tags,
    acceleration,
    critical_path,
    latencies,
    path_of_text,
    problem_means,
    self_parallelism,
    speedup,
)

TAGS = Tags(*(VOCABULARY.index(tag) for tag in ("<Parallel>", "</Parallel>", "<Thread>", "</Thread>")))


def one_pass(tokens: list[int], tags_travel: bool) -> Path:
    """The published definition, one token at a time."""
    path, blocks, threads, inside, thread, longest = 0, 0, 0, False, None, 0
    for token in tokens:
        if thread is not None:
            if token == TAGS.end_thread:
                thread += tags_travel
                path += not tags_travel
                longest, thread = max(longest, thread), None
            else:
                thread += 1
        elif inside and token == TAGS.thread:
            thread, threads = int(tags_travel), threads + 1
            path += not tags_travel
        else:
            path += 1
            if inside and token == TAGS.end_parallel:
                path, longest, inside = path + longest, 0, False
            elif not inside and token == TAGS.parallel:
                inside, blocks = True, blocks + 1
    return Path(len(tokens), path + max(longest, thread or 0), blocks, threads)


@given(st.lists(st.sampled_from([*TAGS, 1, 2]), max_size=40), st.booleans())
def test_the_path_of_any_tokens_is_the_one_pass(tokens: list[int], travel: bool) -> None:
    assert critical_path(tokens, TAGS, "thread" if travel else "sequential") == one_pass(tokens, travel)


@given(trajectories())
def test_the_path_of_a_trajectory_is_everything_but_the_shorter_threads(made: tuple[str, str, list[list[str]]]) -> None:
    _, text, blocks = made
    lengths = [[len(encode(f"\n{i}:{said}")) for i, said in enumerate(block, 1)] for block in blocks]
    hidden = sum(sum(block) - max(block) for block in lengths)
    shared = sum(2 * (len(block) - 1) for block in lengths)
    found = critical_path(encode(text), TAGS)
    assert found == Path(len(encode(text)), len(encode(text)) - hidden, len(blocks), sum(map(len, blocks)))
    travelling = critical_path(encode(text), TAGS, "thread")
    assert travelling.longest == found.longest - shared
    assert path_of_text(text, lambda fragment: len(encode(fragment))) == travelling


def test_the_two_conventions_differ_by_two_tags_a_further_thread() -> None:
    text = render_block(["a", "b", "c"], ["1", "22", "333"])
    sequential, travelling = (critical_path(encode(text), TAGS, convention) for convention in ("sequential", "thread"))
    assert sequential.longest - travelling.longest == 2 * 2
    with pytest.raises(ValueError, match="'sequential' or 'thread'"):
        critical_path([1], TAGS, "tags")


def test_counting_fragments_apart_differs_where_a_tokenizer_joins_their_borders() -> None:
    """The text metric tokenises every fragment by itself: pieces that merge across a border cost more there."""
    text = "x" + render_block(["a"], ["1"])

    def pairs(fragment: str) -> int:
        return -(-len(fragment) // 2)  # a tokenizer of two characters a token

    fragments = [
        "x",
        "<Parallel>\n<Outlines>\n<Outline>1:a</Outline>\n</Outlines>\n",
        "<Thread>\n1:1</Thread>",
        "\n</Parallel>",
    ]
    assert text == "".join(fragments) and path_of_text(text, pairs).total == sum(map(pairs, fragments)) > pairs(text)


@given(soup.map("".join) | st.text(alphabet="<Parallel>/Thread", max_size=60))
def test_no_text_raises_and_paths_are_within_their_totals(text: str) -> None:
    for path in (path_of_text(text, len), critical_path(encode("".join(c for c in text if c in "abc123")), TAGS)):
        assert 0 <= path.longest <= path.total
    assert path_of_text(text, len).total == len(text)


def test_published_self_parallelism_follows_from_published_lengths() -> None:
    """Training sets: total over longest. Test sets: AIME24 and AMC23, where the rounded means decide it."""
    assert self_parallelism([11_143, 11_176, 10_377], [8_278, 9_153, 10_377]) == pytest.approx(
        [1.35, 1.22, 1.00], abs=0.005
    )
    assert self_parallelism([21.1, 15.0], [16.9, 12.0]) == pytest.approx([1.25, 1.25], abs=0.005)
    assert acceleration([10, 0], [7, 0]) == pytest.approx([0.3, 0.0])
    assert self_parallelism(10, 7) == pytest.approx(1 / (1 - 0.3))


def test_published_means_give_a_smaller_speed_up_than_the_published_mean_of_ratios() -> None:
    """Latencies of six test sets: 1.14x by the means, 1.22x by the paper's mean of ratios."""
    sequential, own = [19.4, 24.6, 13.8, 7.2, 10.6, 15.2], [16.9, 24.0, 12.0, 6.4, 7.3, 12.8]
    found = speedup(sequential, own)
    assert found.ratio_of_means == pytest.approx(1.14, abs=0.005)
    assert np.mean([1.14, 1.03, 1.16, 1.23, 1.53, 1.21]) == pytest.approx(1.22, abs=0.005)
    assert found.ratio_of_means < found.mean_of_ratios < 1.22  # ratios within a set spread further still
    assert found.largest == pytest.approx(10.6 / 7.3)


def test_speed_ups_by_problem_and_among_correct_samples_only() -> None:
    problems = [0, 0, 1, 1, 2]
    base = problem_means([10, 20, 30, 50, 9], problems)
    own = problem_means([10, 10, 40, 40, 3], problems, keep=[True, True, True, False, False])
    assert base.tolist() == [15, 40, 9] and own[:2].tolist() == [10, 40] and np.isnan(own[2])
    found = speedup(base, own)
    assert found == pytest.approx((55 / 50, (1.5 + 1) / 2, 1.5))
    assert np.isnan(speedup([np.nan], [1.0])).all() and problem_means([], [], 2).shape == (2,)


def test_the_quick_evaluation_counts_the_prompt_in_one_arm_only() -> None:
    sequential, parallel, prompt = [100.0], [50.0], [50.0]
    assert speedup(*latencies(sequential, parallel, prompt)).ratio_of_means == 2.0
    assert speedup(*latencies(sequential, parallel, prompt, "quick_eval")).ratio_of_means == 1.0
    with pytest.raises(ValueError, match="quick_eval"):
        latencies(sequential, parallel, prompt, "both")


def test_every_tag_is_one_token_of_the_test_vocabulary() -> None:
    assert all(len(encode(tag)) == 1 for tag in SPECIAL)
