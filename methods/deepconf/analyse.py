"""What the rules of a job are worth: accuracy against tokens, how well confidence tells right from wrong, one stop drawn."""

from __future__ import annotations

import altair as alt
import pandas as pd

from methods.deepconf.rules import BY_BUDGET
from tycho.adapter import Run
from tycho.drawing import names_beside

KINDS = {
    "pass@1": "plain", "majority": "plain", "consensus-only": "control", "low": "DeepConf online",
    "low+tau": "DeepConf online", "high": "DeepConf online", "high+tau": "DeepConf online",
    "random-stop": "control", "random-stop+tau": "control", "shuffled": "control", "shuffled+tau": "control",
    "majority at equal tokens": "control", "majority at equal tokens+tau": "control",
}  # fmt: skip
PERCENT = alt.Axis(format="%")


def analyse(run: Run) -> None:
    samples = run.job.record("samples")
    table = summary(samples)
    run.table("rules", table)
    for row in table.itertuples(index=False):
        run.metric("mean_accuracy", row.accuracy, variant=row.rule, setting=row.setting)
        run.metric("mean_tokens", row.tokens, variant=row.rule, setting=row.setting)
        if row.saved == row.saved:
            run.metric("tokens_saved", row.saved, variant=row.rule, setting=row.setting)
    frontier(run, table[table.setting == ""])
    confidence_curves(run)
    if table.setting.str.startswith("window=").any():
        ablation(run, table)
    if table.setting.str.startswith("budget=").any():
        by_budget(run, table)


def summary(samples: pd.DataFrame) -> pd.DataFrame:
    """Mean over questions of each rule: accuracy, tokens, share of the majority's tokens that is saved."""
    found = samples.groupby(["variant", "setting"], as_index=False).agg(
        accuracy=("score", "mean"), tokens=("generated_tokens", "mean"), steps=("sequential_tokens", "mean"),
        questions=("item", "nunique"),
    )  # fmt: skip
    found = found.rename(columns={"variant": "rule"}).astype({"tokens": float, "accuracy": float, "steps": "Float64"})
    whole = found[(found.rule == "majority") & (found.setting == "")].tokens.iloc[0]
    found["saved"] = 1 - found.tokens / whole
    return found.sort_values(["setting", "tokens"]).reset_index(drop=True)


def dominated(table: pd.DataFrame) -> pd.Series:
    """Whether another rule is at least as right with at most as many tokens, and better in one of them."""
    return pd.Series(
        [
            bool(((table.tokens <= row.tokens) & (table.accuracy >= row.accuracy)
                  & ((table.tokens < row.tokens) | (table.accuracy > row.accuracy))).any())
            for row in table.itertuples()
        ],
        index=table.index,
    )  # fmt: skip


def frontier(run: Run, table: pd.DataFrame) -> None:
    table = table[~table.rule.str.startswith("live")]
    table = table.assign(
        kind=table.rule.map(KINDS).fillna("vote over all traces"), dominated=dominated(table),
    )  # fmt: skip
    base = alt.Chart(table[["rule", "tokens", "accuracy", "kind", "dominated"]]).encode(
        x=alt.X("tokens:Q", title="generated tokens a question", scale=alt.Scale(zero=False)),
        y=alt.Y("accuracy:Q", title="accuracy", axis=PERCENT, scale=alt.Scale(zero=False)),
        opacity=alt.condition(alt.datum.dominated, alt.value(0.3), alt.value(1)),
    )
    points = base.mark_point(filled=True, size=60).encode(
        color=alt.Color("kind:N", title=None), tooltip=["rule", "tokens", "accuracy"]
    )
    named = names_beside(table[~table.dominated], "tokens", "accuracy", "rule", of=table)
    values = table.set_index("rule")
    low, most = values.loc["low"], values.loc["majority"]
    run.figure(
        "frontier",
        alt.layer(points, *named).properties(width=480, height=300),
        f"This seed's DeepConf-low answers {low.accuracy:.1%}, the majority {most.accuracy:.1%}, with {low.saved:.0%} fewer tokens; "
        "rules that another one dominates are dimmed.",
    )


def confidence_curves(run: Run) -> None:
    frame = run.job.table("confidences")
    if frame.empty:
        return
    frame = frame.assign(answer=frame.right.map({True: "right", False: "wrong"}))
    line = (
        alt.Chart()
        .mark_line(strokeWidth=1)
        .encode(
            x=alt.X("token:Q", title="token"),
            y=alt.Y("confidence:Q", title="group confidence", scale=alt.Scale(zero=False)),
            color=alt.Color("answer:N", title="full trace's answer", sort=["right", "wrong"]),
            detail="trace:N",
            opacity=alt.condition(alt.datum.stopped, alt.value(0.15), alt.value(0.8)),
        )
    )
    stop = line.mark_point(shape="cross", size=50).transform_filter(alt.datum.stop)
    bar = alt.Chart().mark_rule(strokeDash=[4, 3]).encode(y="bar:Q")
    chart = (
        alt.layer(line, bar, stop, data=frame)
        .properties(width=230, height=180)
        .facet(column=alt.Column("question:N", title=None))
    )
    ends = frame.groupby(["question", "trace"]).agg(right=("right", "first"), stop=("stop", "any"))
    share = ends.groupby("right").stop.mean()
    text = " and ".join(
        f"{share[right]:.0%} of the {name}" for right, name in ((True, "right"), (False, "wrong")) if right in share
    )
    run.figure(
        "stops", chart, f"The bar of DeepConf-low (dashed) stops {text} ones among the traces shown; crosses are stops."
    )


def ablation(run: Run, table: pd.DataFrame) -> None:
    names = ["lowest@10", "bottom10%@10", "tail@10", "low"]
    window = int(run.config.window)
    frame = table[table.rule.isin(names) & ~table.setting.str.startswith("budget=")].copy()
    frame["window"] = [int(text.removeprefix("window=")) if text else window for text in frame.setting]
    auc = run.job.record("metrics").query("name == 'auc'").set_index("variant").value
    chart = (
        alt.Chart(frame[["rule", "window", "accuracy"]])
        .mark_line(point=True)
        .encode(
            x=alt.X("window:O", title="tokens of a group"),
            y=alt.Y("accuracy:Q", axis=PERCENT, scale=alt.Scale(zero=False)),
            color=alt.Color("rule:N", title=None),
        )
        .properties(width=260, height=200)
    )
    text = ", ".join(f"{name} {value:.2f}" for name, value in auc.items())
    run.figure(
        "windows",
        chart,
        f"Accuracy by window; AUC of right against wrong traces of a question at window {window}: {text or 'none to tell apart'}.",
    )


def by_budget(run: Run, table: pd.DataFrame) -> None:
    """Accuracy and tokens of the main rules at every budget: at equal accuracy the curve to the left is the cheaper rule."""
    frame = table[table.rule.isin(BY_BUDGET) & ~table.setting.str.startswith("window=")].copy()
    frame["budget"] = [int(text.removeprefix("budget=")) if text else run.config.budget for text in frame.setting]
    chart = (
        alt.Chart(frame[["rule", "tokens", "accuracy", "budget"]])
        .mark_line(point=True)
        .encode(
            x=alt.X("tokens:Q", title="generated tokens a question", scale=alt.Scale(type="log", nice=False)),
            y=alt.Y("accuracy:Q", title="accuracy", axis=PERCENT, scale=alt.Scale(zero=False)),
            color=alt.Color("rule:N", title=None),
            order="budget:Q",
            tooltip=["rule", "budget", "tokens", "accuracy"],
        )
        .properties(width=420, height=260)
    )
    budgets = sorted(set(frame.budget))
    values = frame.set_index(["rule", "budget"]).accuracy
    text = "; ".join(f"{rule} " + ", ".join(f"{values[rule, b]:.0%}" for b in budgets) for rule in ("majority", "low"))
    run.figure("budgets", chart, f"A point a budget of {', '.join(map(str, budgets))} traces: {text}.")
