"""Five-step annotation of a file of trajectories by a model behind any OpenAI-compatible server.

    python -m methods.threadweaver.annotate TRAJECTORIES OUT --server http://127.0.0.1:8000/v1 --model NAME

Both files are JSON lines with prompt, response and answer. Right and well-formed trajectories are written as they come, a
batch at a time, so that a run that breaks off loses the last batch only and goes on behind what is there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from methods.threadweaver.annotation import LEAST_SAVED, Ask, Trajectory, annotate
from tycho.errors import TychoError


def run(rows: Sequence[dict[str, Any]], out: Path, ask: Ask, *, least_saved: int, batch: int) -> Counter[str]:
    """Annotates rows and appends what is kept to `out`; returns what was left out, by reason."""
    from methods.deepconf.answers import boxed

    done = out.with_suffix(out.suffix + ".done")
    start = int(done.read_text()) if done.exists() else 0
    left_out: Counter[str] = Counter()
    for at in range(start, len(rows), batch):
        some = rows[at : at + batch]
        found = annotate(
            [Trajectory(row["prompt"], row["response"]) for row in some], ask, least_saved=least_saved, answer=boxed
        )
        answers = {row["prompt"]: row.get("answer", "") for row in some}
        with out.open("a", encoding="utf-8") as file:
            for one in found.kept:
                file.write(json.dumps({**one._asdict(), "answer": answers[one.prompt]}) + "\n")
        left_out += found.left_out
        done.write_text(str(at + len(some)))
    return left_out


def served(server: str, model: str, most: int, *, chat: bool = True) -> Ask:
    """A model behind a server as an annotator; a request that fails counts as an empty reply."""
    from tycho.engines import Settings, connect

    engine, settings = connect(server, model=model, chat=chat), Settings(most=most, temperature=0.0)
    return lambda prompts: [reply.text for reply in engine.complete(list(prompts), settings)]


def main(
    trajectories: Annotated[Path, typer.Argument(help="JSON lines: prompt, response, answer")],
    out: Annotated[Path, typer.Argument(help="where the kept ones are appended")],
    server: Annotated[str, typer.Option(help="base URL of an OpenAI-compatible server")],
    model: Annotated[str, typer.Option(help="the model's name there")] = "",
    least_saved: Annotated[int, typer.Option(help="characters outside a block's longest thread")] = LEAST_SAVED[
        "script"
    ],
    most: Annotated[int, typer.Option(help="tokens a reply may have")] = 8192,
    batch: Annotated[int, typer.Option(help="trajectories at once")] = 32,
) -> None:
    """Turns sequential trajectories into fork-join ones."""
    from methods.threadweaver.own import read_rows

    try:
        rows = read_rows(trajectories)
        for number, row in enumerate(rows, 1):
            if not all(isinstance(row.get(key), str) for key in ("prompt", "response")):
                raise TychoError(f"{trajectories}: line {number} lacks prompt or response")
        left_out = run(rows, out, served(server, model, most), least_saved=least_saved, batch=batch)
    except TychoError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    for reason, count in left_out.most_common():
        typer.echo(f"{count:6d}  {reason}")


if __name__ == "__main__":
    typer.run(main)
