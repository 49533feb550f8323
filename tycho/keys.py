"""Who a job is, and the random numbers that follow from it.

This module decides what every job draws: a change of `derive_seed` or of `SHARED_AXES` changes all results, so
`GENERATION` is part of every job's digest and is raised by hand when the frame changes what jobs compute.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from tycho.errors import TychoError

GENERATION = 1

# Axes on which all arms of a task and seed draw the same numbers, so that arms are compared pair by pair.
SHARED_AXES = ("data", "split", "init", "order")

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*\Z")


@dataclass(frozen=True, order=True)
class JobKey:
    """One measurement: a method's arm on a task with a seed, at a scale."""

    scale: str
    method: str
    arm: str
    task: str
    seed: int

    def __post_init__(self) -> None:
        for part in ("scale", "method", "arm", "task"):
            if not NAME.match(getattr(self, part)):
                raise TychoError(
                    f"{part} {getattr(self, part)!r} cannot name a folder: use a-z, 0-9, '_', '-', '.', first a letter or digit"
                )
        if self.seed < 0:
            raise TychoError(
                f"seed {self.seed} of {self.method}/{self.arm}/{self.task} is negative: seeds count from 0"
            )

    @property
    def path(self) -> PurePosixPath:
        """The job's place below `results/<scale>/jobs`."""
        return PurePosixPath(self.method, self.arm, self.task, f"seed{self.seed}")

    def __str__(self) -> str:
        return f"{self.scale}/{self.path}"


def derive_seed(axis: str, key: JobKey) -> int:
    """A 63-bit seed for one axis of randomness of a job.

    The shared axes depend on task and seed alone; any other axis is the job's own. The scale takes no part: a larger
    scale continues the streams of a smaller one.
    """
    own = () if axis in SHARED_AXES else (key.method, key.arm)
    text = "\x1f".join((axis, key.task, str(key.seed), *own))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def setting(**values: object) -> str:
    """A sweep point in its one canonical spelling: names sorted, `M=23,r=2.5`; a whole float as an integer."""
    for name, value in values.items():
        if set("=,") & set(f"{name}{value}"):
            raise TychoError(f"setting {name}={value!r} holds '=' or ',', which separate settings")
    # All digits of a float: two points of a sweep must never share a name.
    return ",".join(
        f"{name}={repr(float(value)).removesuffix('.0') if isinstance(value, float) else value}"
        for name, value in sorted(values.items())
    )


def read_setting(text: str) -> dict[str, str]:
    """The parts of a canonical setting; the empty setting has none."""
    return dict(part.split("=", 1) for part in text.split(",")) if text else {}
