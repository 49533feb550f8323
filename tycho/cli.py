"""The command line. Everything heavy is imported inside the commands."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tycho.errors import TychoError, one_line
from tycho.terminal import log_to, make_app, start

app = make_app("Re-measures the 2025 directions in efficient reasoning and interpretability.")

Scale = Annotated[str, typer.Option(help="smoke, quick, standard or paper.")]
Results = Annotated[str, typer.Option(help="The folder of all results.")]


def main() -> None:
    own = {command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands}
    if not own & set(sys.argv[1:2]):
        add_room_commands()
    start(app)


def add_room_commands() -> None:
    """Adds what rooms offer: the commands of the typer `app` in a room's `cli.py` become Tycho's own.

    Rooms are imported only where the first word is no command of the frame; one that cannot be takes its own commands
    away, and says so.
    """
    from tycho.registry import room_module, rooms

    had = {command.callback for command in app.registered_commands}
    for name in rooms():
        try:
            module = room_module(name, "cli")
        except Exception as error:
            print(f"tycho: left out: the commands of {name}: {one_line(error)}", file=sys.stderr)
            continue
        if module is not None:
            app.registered_commands += [c for c in module.app.registered_commands if c.callback not in had]


@app.command()
def run(
    method: str,
    arm: Annotated[
        list[str] | None, typer.Option(help="An arm; may be given again. Left out: those of the scale.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="A task; may be given again.")] = None,
    seeds: Annotated[
        str, typer.Option(help="A number n for 0 to n-1, or seeds apart by commas (`7,` is seed 7 alone).")
    ] = "",
    scale: Scale = "quick",
    results: Results = "results",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 0,
    model: Annotated[
        str, typer.Option(help="Your own model: sets the method's knob `model`, and its task `own` if it has one.")
    ] = "",
    data: Annotated[str, typer.Option(help="Your own data: sets the method's knob `data`.")] = "",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A knob as name=value (YAML); may be given again.")
    ] = None,
) -> None:
    """Runs one method without Snakemake, what it needs included, and prints its final metrics."""
    from tycho.jobs import plan
    from tycho.registry import method as load
    from tycho.worker import run_process

    if (model or data) and not task and "own" in load(method).tasks:
        task = ["own"]
    knobs = _knobs(set_ or [], model=model, data=data)
    change: dict[str, Any] = {"config": knobs, **_outranking(knobs, method, scale)}
    change |= {"arms": arm, "task_arms": None} if arm else {}
    change |= {"tasks": task} if task else {}
    change |= {"seeds": _seeds(seeds), "task_seeds": None} if seeds else {}
    given: dict[str, Any] = {"scale": scale, "results": results, "only": [method], "methods": {method: change}}
    given |= {"device": device} if device else {}
    given |= {"threads": threads} if threads else {}
    planned = plan(_settings(given))
    log_to(None)
    if method in planned.broken:
        raise TychoError(planned.broken[method])
    failures: dict[str, str] = {}
    for process in planned.ordered():
        failures |= run_process(planned, process)
    _print_metrics(planned, method)
    if failures:
        raise TychoError("; ".join(f"{key} failed: {reason}" for key, reason in failures.items()))


@app.command()
def job(
    method: str,
    arm: str,
    task: str,
    seeds: Annotated[str, typer.Option(help="The process's seeds, apart by '-'.")],
    settings: Annotated[
        str, typer.Option(envvar="TYCHO_SETTINGS", help="What the user gave Snakemake, as JSON.")
    ] = "{}",
    digest: Annotated[str, typer.Option(help="The planned digest; another one means the code has changed since.")] = "",
    log: Annotated[Path | None, typer.Option(help="Where the log goes.")] = None,
) -> None:
    """Runs one process of the DAG (called by Snakemake)."""
    from tycho.jobs import plan
    from tycho.worker import run_process

    log_to(log)
    planned = plan(_settings(json.loads(settings)), check=False)
    process = planned.process(method, arm, task, seeds)
    if digest and process.digest != digest:
        raise TychoError(f"{method}/{arm}/{task}: code or config has changed since the DAG was planned: start again")
    failures = run_process(planned, process)
    if failures:
        raise TychoError("; ".join(f"{key} failed: {reason}" for key, reason in failures.items()))


@app.command("list")
def list_(method: Annotated[str, typer.Argument(help="A method, to see its arms, tasks and knobs.")] = "") -> None:
    """Lists methods, or one method's arms, tasks and knobs. Methods that cannot be loaded are named with their error."""
    from rich.console import Console
    from rich.table import Table

    from tycho.registry import load_all
    from tycho.registry import method as load

    console = Console(markup=False, soft_wrap=True)
    if not method:
        loaded, broken = load_all()
        table = Table("method", "paper", "arms", "tasks", box=None)
        for name, found in loaded.items():
            table.add_row(name, f"arXiv {found.paper.arxiv}", ", ".join(found.arms), ", ".join(found.tasks))
        console.print(table)
        for reason in broken.values():
            console.print(reason, style="red")
        if broken:
            raise typer.Exit(1)
        return
    found = load(method)
    console.print(f"{found.title} ({found.paper.title}, {found.paper.url})\n{found.says}")
    for kind, entries in (
        ("arm", {arm: f"{a.role}: {a.says}" for arm, a in found.arms.items()}),
        ("task", found.tasks),
    ):
        table = Table(kind, "", box=None)
        for name, says in entries.items():
            table.add_row(name, says)
        console.print(table)
    table = Table("knob", "default", "unit", "stage", "", box=None)
    for name, info in found.Config.model_fields.items():
        extra = info.json_schema_extra or {}
        table.add_row(name, str(info.default), extra.get("unit", ""), extra.get("stage", ""), info.description)
    console.print(table)


@app.command()
def sync(
    scale: Annotated[
        list[str] | None, typer.Option(help="A scale; left out: every scale in the results folder.")
    ] = None,
    results: Results = "results",
    tracking_uri: Annotated[
        str, typer.Option(help="MLflow store; left out: MLFLOW_TRACKING_URI or results/mlflow.db.")
    ] = "",
    follow: Annotated[
        float, typer.Option(help="Publish again every so many seconds, running jobs included; 0: once.")
    ] = 0,
    report: Annotated[bool, typer.Option(help="Attach the report, too.")] = True,
) -> None:
    """Publishes the records to MLflow. What is there unchanged is left alone; a deleted store is made again."""
    from tycho.tracking import follow_results, sync_results

    store = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if follow:
        follow_results(Path(results), store, scale or [], follow, report)
    else:
        print(sync_results(Path(results), store, scale or [], report=report))


@app.command()
def verify(
    results: Annotated[Path, typer.Argument(help="A scale's folder, as results/quick.")],
    sample: Annotated[int, typer.Option(help="How many jobs to run again; 0: all.", min=0)] = 5,
    only: Annotated[list[str] | None, typer.Option(help="A method to draw from; may be given again.")] = None,
    most_seconds: Annotated[
        float, typer.Option(help="Leave out jobs that cost more CPU-seconds than this; 0: none.", min=0)
    ] = 0,
    tolerance: Annotated[
        float, typer.Option(help="A number within tolerance * max(1, |number|) counts as reproduced.", min=0)
    ] = 1e-6,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    into: Annotated[
        Path | None, typer.Option(help="Where to run them, and leave them; left out: a folder that is removed.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="A CSV file for the comparison, a row a number.")] = None,
) -> None:
    """Runs a sample of finished jobs again and says which numbers reproduced, bit for bit or within a tolerance, and which
    did not. Ends non-zero if any did not."""
    import tempfile

    from tycho.verify import print_verified
    from tycho.verify import verify as run_verify

    log_to(None)
    with tempfile.TemporaryDirectory(prefix="tycho-verify-") as temporary:
        found = run_verify(
            results.resolve(), into or Path(temporary), sample=sample, only=only, most_seconds=most_seconds,
            tolerance=tolerance, seed=seed,
        )  # fmt: skip
    print_verified(found, tolerance)
    if output:
        found.rows.to_csv(output, index=False)
    if not found.good:
        raise typer.Exit(1)


@app.command()
def where(scale: Scale = "quick", results: Results = "results") -> None:
    """Says where the report is, how to open MLflow, and what failed; ends non-zero if anything did."""
    from tycho import records
    from tycho.jobs import plan

    planned = plan(_settings({"scale": scale, "results": results}))
    folder = planned.settings.folder
    report, statuses = folder / "report" / "index.html", folder / "statuses.parquet"
    print(f"report: {report.resolve()}" if report.exists() else f"no report at {report}")
    print(f"MLflow: make ui RESULTS={results}, then http://127.0.0.1:5000")
    undone = dict(planned.broken)
    if statuses.exists():
        rows = records.read(statuses, "run `python -m reports collect` again").query("state != 'done'").itertuples()
        undone |= {f"{row.method}/{row.arm}/{row.task}/seed{row.seed}": f"{row.state}: {row.reason}" for row in rows}
    for name, reason in undone.items():
        print(f"not done: {name}: {reason}", file=sys.stderr)
    if undone or not report.exists():
        raise typer.Exit(1)


@app.command()
def export(
    to: Annotated[Path, typer.Argument(help="A new folder, or a .zip.")],
    scale: Scale = "quick",
    results: Results = "results",
) -> None:
    """Puts the report with all that lies beside it (tables, figures, samples as CSV) into a folder or an archive."""
    from reports.exports import export as run_export

    written = run_export(Path(results) / scale, to)
    print(f"{to}: {len(written)} {'file' if len(written) == 1 else 'files'}")


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="A scale's folder, as in results/quick or records/standard.")],
    after: Annotated[Path, typer.Argument(help="Another one.")],
    every: Annotated[bool, typer.Option("--all", help="Show values that differ, but not clearly, too.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write Markdown here instead of printing it.")] = None,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="End with 1 where anything but cost differs.")] = False,
) -> None:
    """Says what changed between two result folders: verdicts, values with intervals, jobs, CPU time."""
    from reports.compare import as_markdown, open_folder
    from reports.compare import compare as run_compare
    from tycho.files import write_text

    a, b = open_folder(before), open_folder(after)
    found = run_compare(a, b)
    text = as_markdown(a, b, found, every)
    if output is None:
        print(text, end="")
    else:
        write_text(output, text)
    if exit_code and not found.same:
        raise typer.Exit(1)


@app.command()
def keep(
    scale: Scale = "standard",
    results: Results = "results",
    to: Annotated[Path, typer.Option(help="Where kept records lie; a folder a scale.")] = Path("records"),
) -> None:
    """Keeps a scale's records in the repository: tables, figures and plan in a few small files, no weights."""
    from reports.kept import keep as run_keep

    for path in run_keep(Path(results) / scale, to):
        print(f"{path} ({path.stat().st_size / 1e6:.2f} MB)")


@app.command()
def rebuild(
    kept: Annotated[Path, typer.Argument(help="Kept records, as in records/standard.")],
    results: Annotated[Path, typer.Option(help="A results folder that does not have this scale yet.")],
) -> None:
    """Makes the report from kept records alone."""
    from reports.kept import rebuild as run_rebuild

    print(f"report: {run_rebuild(kept, results).resolve()}")


@app.command()
def config(
    scale: Scale = "quick",
    write: Annotated[
        bool, typer.Option("--write", help="Write config/default.yaml and config/schema.json anew.")
    ] = False,
) -> None:
    """Prints a scale's validated settings and plan."""
    import yaml

    from tycho import config as schema
    from tycho.files import write_text
    from tycho.registry import load_all
    from tycho.sources import ROOT

    if write:
        write_text(ROOT / "config" / "default.yaml", schema.default_yaml())
        write_text(ROOT / "config" / "schema.json", json.dumps(schema.json_schema(), indent=1) + "\n")
        return
    settings = schema.load_settings({"scale": scale})
    plans = {name: schema.method_plan(name, settings) for name in load_all()[0]}
    shown = settings.model_dump() | {"methods": {name: p.model_dump() for name, p in plans.items() if p}}
    print(yaml.safe_dump(shown, sort_keys=False), end="")


@app.command()
def download(
    scale: Scale = "paper",
    only: Annotated[list[str] | None, typer.Option(help="A method; may be given again. Left out: all.")] = None,
    configfile: Annotated[
        list[Path] | None, typer.Option(help="Settings (YAML), as the run gets them; may be given again.")
    ] = None,
    pin: Annotated[
        Path | None,
        typer.Option(help="Only add to this config file the commits that the hub has now, for what names none."),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Only say what there is to fetch.")] = False,
    settings: Annotated[
        str, typer.Option(envvar="TYCHO_SETTINGS", help="What the user gave Snakemake, as JSON.")
    ] = "{}",
) -> None:
    """Fetches from the model hub what a scale's jobs name, each at its commit, so that they run without a network
    (HF_HUB_OFFLINE=1). Says what is gated, what is not pinned and which files are to be supplied."""
    import yaml

    from tycho import hub
    from tycho.config import merged, read_yaml
    from tycho.files import write_text
    from tycho.jobs import plan

    given = {"scale": scale} | ({"only": only} if only else {})
    pinned = read_yaml(pin) if pin and pin.exists() else {}
    for layer in (*(read_yaml(path) for path in configfile or []), pinned, json.loads(settings)):
        given = merged(given, layer)
    planned = plan(_settings(given))
    for reason in planned.broken.values():
        print(f"tycho: left out: {reason}", file=sys.stderr)
    if pin:
        write_text(pin, yaml.safe_dump(merged(pinned, hub.pins(planned)), sort_keys=False))
        print(f"{pin}: give it to `tycho download` and to snakemake as --configfile {pin}")
        return
    missing = hub.download(planned, fetch=not list_)
    if missing and not list_:
        raise TychoError(f"not here: {', '.join(missing)}")


@app.command()
def doctor(results: Results = "results") -> None:
    """Says whether this machine can run Tycho, and what to do where it cannot."""
    from tycho.doctor import checks

    found = checks(Path(results))
    for check in found:
        print(f"{'ok  ' if check.ok else 'BAD ' if check.needed else 'note'} {check.what}: {check.says}")
    if any(check.needed and not check.ok for check in found):
        raise typer.Exit(1)


@app.command(
    "lm-eval",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def lm_eval(context: typer.Context) -> None:
    """lm-eval's command line, with every method that serves (`--model coconut --model_args pretrained=FOLDER`) among its
    models, and our tasks (`--tasks tycho_products`) among its tasks. All options are lm-eval's own."""
    from tycho.evaluation.shell import run as run_shell

    run_shell(context.args)


@app.command()
def evaluate(
    models: Annotated[list[str], typer.Argument(help="A folder, owner/name@revision on the hub, or smollm2.")],
    tasks: Annotated[
        list[str],
        typer.Option(help="Benchmarks apart by commas: gsm8k, math500, gsm-symbolic, piqa, ..., or commonsense."),
    ],
    protocol: Annotated[
        str, typer.Option(help="completion (few-shot, as base models) or chat (template, as post-trained ones).")
    ] = "completion",
    data: Annotated[
        list[str] | None,
        typer.Option(help="A benchmark's items as TASK=FILE, instead of the hub's; may be given again."),
    ] = None,
    limit: Annotated[int, typer.Option(help="Only the first so many items; 0: all.", min=0)] = 0,
    max_gen_toks: Annotated[int, typer.Option(help="Tokens an answer may have; 0: the benchmark's.", min=0)] = 0,
    batch_size: Annotated[int, typer.Option(help="Prompts at once.", min=1)] = 16,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="auto (what runs fastest), bfloat16, float32 or float16.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of sampling, under the protocol chat.")] = 0,
    output: Annotated[Path | None, typer.Option(help="A folder for scores.json and samples.parquet.")] = None,
) -> None:
    """Runs causal LMs through lm-eval on published benchmarks; prints intervals, costs and published numbers beside ours."""
    from tycho.evaluation.command import evaluate as run_evaluation

    pairs = [pair.partition("=") for pair in data or []]
    if not all(sign and file for _, sign, file in pairs):
        raise TychoError("--data takes TASK=FILE")
    run_evaluation(
        models, tasks, protocol, data={name: file for name, _, file in pairs}, limit=limit or None, most=max_gen_toks or None,
        batch=batch_size, device=device, dtype=dtype, seed=seed, output=output,
    )  # fmt: skip


@app.command("new-method")
def new_method(
    name: str,
    into: Annotated[Path, typer.Option(help="The folder of rooms.")] = Path("methods"),
) -> None:
    """Lays out a new room that runs, with a toy measurement to replace."""
    from tycho.scaffold import make_room

    for path in make_room(name, into):
        print(path)


def _settings(given: dict[str, Any]) -> Any:
    from tycho.config import load_settings

    return load_settings(given)


def _seeds(text: str) -> int | list[int]:
    try:
        return [int(seed) for seed in text.removesuffix(",").split(",")] if "," in text else int(text)
    except ValueError as error:
        raise TychoError(f"--seeds takes a number or seeds apart by commas, not {text!r}") from error


def _knobs(pairs: list[str], **shorthand: str) -> dict[str, Any]:
    import yaml

    knobs: dict[str, Any] = {name: value for name, value in shorthand.items() if value}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign:
            raise TychoError(f"--set takes name=value, not {pair!r}")
        try:
            knobs[name] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError) as error:
            raise TychoError(f"--set {pair}: {one_line(error)}") from error
    return knobs


def _outranking(knobs: dict[str, Any], method: str, scale: str) -> dict[str, Any]:
    """The same knobs over what the scale itself says by task and by arm; what makes an arm stays."""
    from tycho.config import method_plan
    from tycho.registry import rooms

    plan = method_plan(method, _settings({"scale": scale})) if method in rooms() else None
    if plan is None:
        return {}
    by_arm = {arm: {name: knobs[name] for name in own.keys() & knobs} for arm, own in plan.arm_config.items()}
    return {"task_config": dict.fromkeys(plan.task_config, knobs), "arm_config": by_arm}


def _print_metrics(planned: Any, method: str) -> None:
    """Final metrics, a row an arm and name, mean over the seeds."""
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    views = [planned.view(key) for key in planned.jobs if key.method == method]
    frame = pd.concat([view.record("metrics") for view in views], ignore_index=True)
    final = frame[frame.step.isna()].groupby(["arm", "task", "variant", "setting", "name"]).value.agg(["mean", "count"])
    table = Table("arm", "task", "variant", "setting", "metric", "mean", "n", box=None)
    for row in final.reset_index().itertuples(index=False):
        table.add_row(*(str(part) for part in row[:5]), f"{row.mean:.6g}", str(row.count))
    Console().print(table)
