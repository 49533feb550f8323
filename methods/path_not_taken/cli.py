"""`tycho diff` and `tycho intervene`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tycho.terminal import make_app

app = make_app("Weight geometry of tuned checkpoints.")


@app.command()
def diff(
    base: Annotated[
        str,
        typer.Argument(metavar="BASE", help="A Hugging Face folder, safetensors file or hub id (org/name@revision)."),
    ],
    tuned: Annotated[list[str], typer.Argument(metavar="TUNED...", help="Tuned versions of it; LoRA adapters, too.")],
    out: Annotated[Path, typer.Option(help="Folder of the result; a stopped diff goes on from it.")] = Path("diff"),
    k: Annotated[list[float] | None, typer.Option(help="Principal rank as a share of the smaller side.")] = None,
    alpha: Annotated[
        list[float] | None, typer.Option(help="Share of entries in the principal and low-magnitude masks.")
    ] = None,
    draws: Annotated[int, typer.Option(help="Draws of the matched noise; two or more give its spread.", min=1)] = 1,
    only: Annotated[str, typer.Option(help="Pattern of the tensors to compare; left out: all.")] = "",
    spectral: Annotated[str, typer.Option(help="Decompose linear layers, all matrices, or none.")] = "linear",
    curves: Annotated[str, typer.Option(help="Pattern of the tensors whose curves are kept.")] = "",
    lenient: Annotated[bool, typer.Option(help="Leave out tensors that do not fit instead of stopping.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the matched noise.")] = 0,
) -> None:
    """Compares tuned checkpoints with their base, every metric beside noise of the same density and norm."""
    from methods.path_not_taken.diff import Tensors
    from methods.path_not_taken.diff import diff as compare
    from methods.path_not_taken.measure import Settings
    from methods.path_not_taken.summary import summarise, surviving

    settings = Settings(k=tuple(k or (0.1,)), alpha=tuple(alpha or (0.3,)), draws=draws)
    frame = compare(
        base, tuned, out, settings=settings, tensors=Tensors(only, spectral, curves), lenient=lenient, device=device, seed=seed
    )  # fmt: skip
    table = summarise(frame)
    _show(table, ["run", "metric", "setting", "tensors", "value", "expected", "null", "above_null"])
    runs = [run for run in dict.fromkeys(frame.run) if run != "all"]
    for run in runs[1:]:
        typer.echo(f"\n{run} minus {runs[0]}: what their noise explains, and what survives it")
        _show(
            surviving(frame, runs[0], run),
            ["metric", "setting", "tensors", "difference", "explained", "surviving", "same_sign"],
        )
    typer.echo(f"\nA row a tensor and metric: {out / 'metrics.parquet'}")


@app.command()
def intervene(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A checkpoint's folder or hub id.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder for the changed checkpoint.")],
    plan: Annotated[str, typer.Option(help="LAYER:CHANGE apart by commas, as 20:rotate+permute,25:rotate.")],
    rotation: Annotated[str, typer.Option(help="haar or hadamard.")] = "haar",
    seed: Annotated[int, typer.Option(help="Of rotations and permutations.")] = 0,
    verify: Annotated[bool, typer.Option(help="Compare logits with the original's.")] = True,
) -> None:
    """Rotates or permutes attention heads so that the function stays and the weights do not."""
    from methods.path_not_taken.intervene import intervene as change
    from methods.path_not_taken.intervene import logit_difference, read_plan

    change(source, out, read_plan(plan), seed, rotation)
    typer.echo(f"written to {out}")
    if verify:
        typer.echo(f"largest difference of logits: {logit_difference(source, out):.3g}")


def _show(table, columns: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(*columns, box=None)
    for row in table[columns].itertuples(index=False):
        shown.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row))
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(shown)
