"""What a scale's jobs take from the Hugging Face hub, and its download before they run, for nodes without a network.

Nothing is listed by hand. A knob names a repository by the shape of its value: `owner/name` or `owner/name@revision`
(where no such path is here), or `hub://owner/name@commit/file`. The revision may also stand beside it, as the knob
`revision`. Beside a knob `split` the repository is a data set; beside the address of a server, a model of that server,
which is fetched where the server runs. Only commits are fetched: a branch is something else tomorrow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import yaml

from tycho.config import merged
from tycho.errors import TychoError, one_line

if TYPE_CHECKING:
    from tycho.jobs import Plan
    from tycho.keys import JobKey

REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
FILE = re.compile(r"hub://([\w.-]+/[\w.-]+)@([^/]+)/(.+)")
COMMIT = re.compile(r"[0-9a-f]{40}")
SERVER = re.compile(r"https?://\S+")
DATA = (".json", ".jsonl", ".parquet", ".csv", ".txt")  # a file that is to be put here, not a repository


@dataclass(frozen=True, order=True)
class Source:
    """A repository at a revision ("" where none is named), or one file or split of it (`part`)."""

    repository: str
    revision: str
    kind: Literal["model", "dataset", "file", "served"]
    part: str = ""  # the file, the split, the server's address

    def __str__(self) -> str:
        return f"{self.repository}{'@' if self.revision else ''}{self.revision}"

    @property
    def pinned(self) -> bool:
        return bool(COMMIT.fullmatch(self.revision))


class Place(NamedTuple):
    """Where the revision of a source is to be written: the path of a setting, whole or behind the name (`name@commit`)."""

    path: tuple[str, ...]
    behind: bool = False

    def pin(self, source: Source, commit: str) -> dict[str, Any]:
        """The settings that pin a source there."""
        value: Any = f"{source.repository}@{commit}" if self.behind else commit
        for name in reversed(self.path):
            value = {name: value}
        return value


def named(knobs: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[Source | Path, Place]]:
    """The hub's repositories that resolved knobs name, and the files that are to lie here and do not."""
    from pydantic import BaseModel

    for name, value in knobs.items():
        inner = dict(value) if isinstance(value, BaseModel) else value
        here = (*above, name)
        if isinstance(inner, Mapping):
            yield from named(inner, here)
        elif isinstance(inner, list | tuple):
            for item in inner:
                yield from named({name: item}, above)
        elif isinstance(inner, str | Path) and inner and not Path(inner).expanduser().exists():
            if isinstance(inner, Path) or (inner.endswith(DATA) and "://" not in inner):
                yield Path(inner), Place(here)
            elif found := FILE.fullmatch(inner):
                yield Source(found[1], found[2], "file", found[3]), Place(here)
            elif found := REPOSITORY.fullmatch(inner):
                behind = found[2] is not None or "revision" not in knobs
                yield _repository(found[1], found[2], knobs), Place(here if behind else (*above, "revision"), behind)


def _repository(repository: str, revision: str | None, beside: Mapping[str, Any]) -> Source:
    for value in beside.values():
        if isinstance(value, str) and SERVER.fullmatch(value):
            return Source(repository, revision or "", "served", value)
    revision = revision or str(beside.get("revision") or "")
    split = str(beside.get("split") or "")
    return Source(repository, revision, "dataset" if split else "model", split)


def wanted(planned: Plan) -> dict[Source | Path, list[Place]]:
    """All that the jobs of a plan name, each with the settings that its revision is to be written in; files last."""
    found: dict[Source | Path, set[Place]] = {}
    for key, job in planned.jobs.items():
        for one, place in named(dict(job.config)):
            path = ("methods", key.method, *_layer(planned, key, place.path[0]), *place.path)
            found.setdefault(one, set()).add(Place(path, place.behind))
    return {one: sorted(found[one]) for one in sorted(found, key=lambda one: (isinstance(one, Path), str(one)))}


def _layer(planned: Plan, key: JobKey, knob: str) -> tuple[str, ...]:
    """The part of a method's plan that has the last word on a job's knob."""
    from tycho.registry import method

    plan, arm = planned.plans[key.method], method(key.method).arms.get(key.arm)  # a synthesis is no arm
    if knob in plan.arm_config.get(key.arm, {}) or (arm and knob in arm.config):
        return ("arm_config", key.arm)
    return ("task_config", key.task) if knob in plan.task_config.get(key.task, {}) else ("config",)


def download(planned: Plan, *, fetch: bool = True) -> list[str]:
    """Fetches what is pinned and says a line for everything; returns the repositories that are not here afterwards.

    fetch=False only lists.
    """
    missing = []
    for one, places in wanted(planned).items():
        by = f"({', '.join(sorted({place.path[1] for place in places}))})"
        if isinstance(one, Path):
            print(f"to be put here: {one} {by}")
        elif one.kind == "served":
            print(f"served: {one} by {one.part} {by}: fetch it where that server runs")
        elif not one.pinned:
            missing.append(str(one))
            print(f"not pinned: {one} {by}: {_how_to_pin(one, places)}")
        elif not fetch:
            print(f"to be fetched: {one} {one.part}".rstrip() + f" {by}")
        else:
            try:
                place = _fetch(one)
            except Exception as error:  # the hub's client raises a dozen kinds; one failure must not keep back the rest
                missing.append(str(one))
                print(f"not fetched: {one} {by}: {reason(error, one)}", flush=True)
            else:
                print(f"here: {one} {by}: {place}", flush=True)
    return missing


def pins(planned: Plan) -> dict[str, Any]:
    """Settings that pin what is not pinned to the commits that the hub has now."""
    from huggingface_hub import HfApi

    found: dict[str, Any] = {}
    for one, places in wanted(planned).items():
        if isinstance(one, Path) or one.kind in ("served", "file") or one.pinned:
            continue
        kind = "dataset" if one.kind == "dataset" else "model"
        try:
            commit = HfApi().repo_info(one.repository, repo_type=kind, revision=one.revision or None).sha
        except Exception as error:
            raise TychoError(f"{one} cannot be pinned: {reason(error, one)}") from error
        for place in places:
            found = merged(found, place.pin(one, str(commit)))
    return found


def _how_to_pin(source: Source, places: list[Place]) -> str:
    if source.kind == "file":
        return f"write hub://{source.repository}@COMMIT/{source.part} with all 40 digits of the commit"
    settings: dict[str, Any] = {}
    for place in places:
        settings = merged(settings, place.pin(source, "COMMIT"))
    text = yaml.safe_dump(settings, default_flow_style=True, width=1000).strip()[1:-1]
    return f"--pin FILE takes the commit that the hub has now; by hand, in a --configfile: {text}"


def _fetch(source: Source) -> Path:
    """Into the hub's cache, as jobs look for it there."""
    if source.kind == "dataset":
        from datasets import load_dataset

        # Not a snapshot: without a network `load_dataset` reads what it has prepared itself.
        found = load_dataset(source.repository, split=source.part, revision=source.revision)
        return Path(found.cache_files[0]["filename"]).parent
    from huggingface_hub import hf_hub_download, snapshot_download

    if source.kind == "file":
        return Path(hf_hub_download(source.repository, source.part, repo_type="dataset", revision=source.revision))
    # The whole repository: a job that asks for all of it would find a part of it incomplete.
    return Path(snapshot_download(source.repository, revision=source.revision))


def reason(error: BaseException, source: Source) -> str:
    """Why the hub did not give a repository, and what to do, in one line."""
    from huggingface_hub import constants, errors

    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    kinds = tuple(type(one) for one in chain)
    status = next((one.response.status_code for one in chain if isinstance(one, errors.HfHubHTTPError)), 0)
    page = f"{constants.ENDPOINT}/{'' if source.kind == 'model' else 'datasets/'}{source.repository}"

    def is_a(*wanted: type) -> bool:
        return any(issubclass(kind, wanted) for kind in kinds)

    if is_a(errors.GatedRepoError):
        return f"it is gated: accept its licence at {page}, then `hf auth login` or HF_TOKEN with the token of that account"
    if is_a(errors.RevisionNotFoundError):
        return f"there is no commit {source.revision}: see {page}/commits/main"
    if is_a(errors.EntryNotFoundError) and status == 404:
        return f"it holds no file {source.part}: see {page}/tree/{source.revision}"
    if is_a(errors.RepositoryNotFoundError):
        return f"there is no such repository, or a private one: check {page}, then `hf auth login` or HF_TOKEN"
    if status in (401, 403):
        return f"the hub refused the token ({status}): `hf auth login` again, or another HF_TOKEN"
    if is_a(errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, and the cache does not have it: unset it where there is a network"
    if is_a(ConnectionError) or any("Connect" in kind.__name__ or "Timeout" in kind.__name__ for kind in kinds):
        return f"{constants.ENDPOINT} cannot be reached: download where there is a network, as on a login node"
    return one_line(error)
