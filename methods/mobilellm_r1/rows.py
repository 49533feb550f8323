"""A model's rows beside the published ones. Two protocols stand side by side and are never compared with each other."""

from __future__ import annotations

import altair as alt
import pandas as pd

from methods.mobilellm_r1.models import published
from tycho.adapter import JobView, Run

# What stands beside ours: the table's smallest rows, and the models that the direction is about.
SHOWN = ("SmolLM2-135M", "SmolLM2-360M", "MobileLLM-R1")
TITLES = {
    "completion": "completion: few-shot, greedy",
    "chat": "chat: template, no examples, sampled",
}

# What announces an answer: the words of the few-shot examples, and what the chat protocol's grader looks for first.
MARKS = {"completion": "The answer is", "chat": "\\boxed"}


def published_rows(task: str = "gsm8k") -> pd.DataFrame:
    """protocol, model, task, shots, accuracy (a share) and where it stands, of the rows that are shown."""
    found = []
    for table in published()["scores"].values():
        for model, row in table["rows"].items():
            if task in row and any(name in model for name in SHOWN):
                found.append(
                    {"protocol": table["protocol"], "model": model, "task": task, "shots": table["shots"][task],
                     "accuracy": row[task] / 100, "source": f"published: {table['where']}"}
                )  # fmt: skip
    return pd.DataFrame(found)


def our_row(view: JobView) -> dict[str, object]:
    """A job's row: accuracy, Wilson's interval over its items, and the limits under which it was measured."""
    value, samples = view.record("metrics").set_index("name").value, view.record("samples")
    config = view.config
    said = samples.response.str.strip()
    marked = said.str.contains(MARKS[config["protocol"]], regex=False)
    model = "HuggingFaceTB/SmolLM2-135M-Instruct, 4-bit weights" if config["model"] == "smollm2" else config["model"]
    return {
        "protocol": config["protocol"], "model": model, "task": view.key.task, "shots": int(value.lm_eval_shots),
        "accuracy": float(value.lm_eval_accuracy), "low": float(value.lm_eval_low), "high": float(value.lm_eval_high),
        "items": int(value.lm_eval_items), "token limit": int(value.lm_eval_max_gen_toks),
        "cut at the limit": float(value.lm_eval_capped), "empty": float((said == "").mean()),
        "without a mark": float((~marked).mean()), "right without a mark": float((samples.correct & ~marked).mean()),
        "source": "measured here, lm-eval",
    }  # fmt: skip


def published_beside(run: Run, views: list[JobView]) -> None:
    """The table and figure of our rows and the published ones."""
    ours = [our_row(view) for view in views if len(view.record("metrics"))]
    if not ours:
        return
    frame = pd.concat([pd.DataFrame(ours), published_rows()], ignore_index=True)
    frame = frame.sort_values("protocol", kind="stable", ascending=False, ignore_index=True)
    for column in ("items", "token limit"):
        frame[column] = frame[column].astype("Int64")
    run.table("models", frame)
    shown = frame.assign(
        label=frame.model.str.rpartition("/")[2] + ", " + frame.task,
        kind=frame.source.str.partition(":")[0].str.partition(",")[0],
        protocol=frame.protocol.map(TITLES),
    )
    base = alt.Chart(shown).encode(
        y=alt.Y("label:N", title=None, sort=None, axis=alt.Axis(labelLimit=330)),
        color=alt.Color("kind:N", title=None),
    )
    dots = base.mark_point(filled=True, size=40, opacity=1).encode(
        x=alt.X("accuracy:Q", title="right", axis=alt.Axis(format="%"))
    )
    bars = base.transform_filter("isValid(datum.low)").mark_rule().encode(x="low:Q", x2="high:Q")
    chart = (
        alt.layer(bars, dots)
        .properties(width=300)
        .facet(
            row=alt.Row(
                "protocol:N",
                title=None,
                sort=list(TITLES.values()),
                header=alt.Header(labelOrient="top", labelAnchor="start"),
            )
        )
    )
    text = "; ".join(
        f"{row['task']}: {row['accuracy']:.1%} [{row['low']:.1%}, {row['high']:.1%}] of {row['items']} items, {row['shots']}-shot, "
        f"at most {row['token limit']} tokens ({row['cut at the limit']:.0%} of the answers were cut there, {row['empty']:.0%} are "
        f'empty, {row["without a mark"]:.0%} never say "{MARKS[row["protocol"]]}"; {row["right without a mark"]:.1%} are counted '
        "right without it, by a number that stands last)"
        for row in ours
    )
    run.figure(
        "models", chart.resolve_scale(y="independent"),
        f"SmolLM2-135M-Instruct through lm-eval by few-shot completion, 95 % intervals over items: {text}. The published numbers "
        "of both tables stand beside it; that model's own 2.4 % on GSM8K are under the chat protocol, at full precision and by "
        "another grader, so ours is no reproduction of it.",
    )  # fmt: skip
