"""`tycho deepconf TRACES`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tycho.terminal import make_app

app = make_app("Votes over saved traces.")


@app.command()
def deepconf(
    traces: Annotated[Path, typer.Argument(metavar="TRACES", help="Saved traces: .parquet, .jsonl or .jsonl.gz.")],
    answers: Annotated[
        str, typer.Option(help="How a text states its answer: boxed, hashes, letter, number, last_line.")
    ] = "boxed",
    window: Annotated[int, typer.Option(help="Tokens of a confidence group.")] = 2048,
    warmup: Annotated[int, typer.Option(help="Warm-up traces.")] = 16,
    tau: Annotated[float, typer.Option(help="Consensus that ends a question.")] = 0.95,
    k: Annotated[int, typer.Option(help="Log-probs a token's confidence averages.", min=1)] = 20,
    resamples: Annotated[int, typer.Option(help="Random orders of a question's traces.", min=1)] = 16,
    exact: Annotated[bool, typer.Option("--exact", help="Count spellings apart, as published (7 and 7.0).")] = False,
    seed: Annotated[int, typer.Option(help="Of the orders.")] = 0,
    output: Annotated[
        Path | None, typer.Option(help="Where to write the table by question (.parquet or .csv).")
    ] = None,
) -> None:
    """Re-analyses saved traces of any engine under every voting and stopping rule, without a model."""
    from rich.console import Console
    from rich.table import Table

    from methods.deepconf.online import Policy
    from methods.deepconf.reanalyse import check, reanalyse, summarise
    from methods.deepconf.traces import read_traces
    from tycho.errors import TychoError

    check(warmup, window, tau)
    if output is not None and output.suffix not in (".parquet", ".csv"):
        raise TychoError(f"--output writes .parquet or .csv, not {output.suffix or output.name!r}")
    read = read_traces(traces, answers, k, warmup)
    for problem in read.problems:
        typer.echo(f"note: {problem}", err=True)
    found = reanalyse(
        read, Policy(warmup=warmup, window=window, tau=tau), resamples=resamples, merge=not exact, seed=seed
    )
    table = summarise(found)
    known = bool(found.right.notna().any())
    shown = Table("rule", "questions", *(["accuracy", "95 %"] if known else []), "tokens", "saved", "ballots", box=None)
    for row in table.itertuples(index=False):
        right = [f"{row.accuracy:.1%}", f"{row.low:.1%} to {row.high:.1%}"] if known else []
        shown.add_row(
            row.rule, str(row.questions), *right, f"{row.tokens:,.0f}", f"{row.saved:.1%}", f"{row.ballots:.1f}"
        )
    Console(markup=False, soft_wrap=True).print(shown)
    if not known:
        typer.echo("no targets in the file: accuracies are unknown (column 'target')", err=True)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        found.to_parquet(output, index=False) if output.suffix == ".parquet" else found.to_csv(output, index=False)
