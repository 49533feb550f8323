"""What a paper says, and the test that decides it: the schema of claims.yaml, explained in docs/statistics.md."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from tycho.errors import TychoError, one_line, unknown
from tycho.keys import setting as spell_setting

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\Z")
# A test "lies above A and below B" on its working scale; None leaves that end open.
Bounds = tuple[float | None, float | None]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _spell(value: Any) -> Any:
    """A setting in its canonical spelling, from a mapping or from text with its parts in any order."""
    if isinstance(value, dict):
        return spell_setting(**value)
    if isinstance(value, str) and value:
        parts = [part.strip().split("=") for part in value.split(",")]
        if any(len(part) != 2 for part in parts):
            raise ValueError(f"setting {value!r} is not of the form 'M=23,r=2.5'")
        return ",".join("=".join(part) for part in sorted(parts))
    return value


def _side(value: Any) -> Any:
    """`cot` is short for `{arm: cot}`; a number, also one that YAML took for text (1e-6), is a constant."""
    if isinstance(value, str):
        return float(value) if NUMBER.match(value) else {"arm": value}
    return value


def _arxiv(value: Any) -> Any:
    """YAML reads a bare 2410.01770 as a number and loses its last zero."""
    if isinstance(value, float):
        return f"{value:010.5f}" if value >= 1501 else f"{value:09.4f}"
    return value


Setting = Annotated[str, BeforeValidator(_spell)]


class Side(Strict):
    """One side of a contrast. What it leaves out is taken from the test."""

    arm: str
    task: str | None = None
    estimand: str | None = None
    variant: str | None = None
    setting: Setting | None = None

    def __str__(self) -> str:
        return self.arm + (f"[{self.variant}]" if self.variant else "") + (f" @{self.setting}" if self.setting else "")


Arm = Annotated[Side, BeforeValidator(_side)]
ArmOrNumber = Annotated[Annotated[float, Field(strict=True)] | Side, BeforeValidator(_side)]


class Contrast(Strict):
    estimand: str
    task: str
    variant: str = ""
    setting: Setting = ""
    scale: Literal["additive", "log"] = "additive"
    resolution: float | None = Field(None, gt=0)  # the grain of one measured value; floor of its error

    def fill(self, side: Side | float) -> Side | float:
        if not isinstance(side, Side):
            return side
        own = ("task", "estimand", "variant", "setting")
        return side.model_copy(update={key: getattr(self, key) for key in own if getattr(side, key) is None})

    def sides(self) -> Iterator[Side]:
        for name in ("of", "than"):
            value = getattr(self, name, None)
            for side in value if isinstance(value, list) else [value]:
                if isinstance(side, Side):
                    yield self.fill(side)


class Compare(Contrast):
    """of - than against a margin; on the log scale of / than against a factor 1 + margin."""

    kind: Literal["greater", "less", "at_least", "equivalent"]
    of: Arm
    than: ArmOrNumber
    margin: float = 0.0

    @model_validator(mode="after")
    def _margin_fits(self) -> Compare:
        if self.kind == "equivalent" and self.margin <= 0:
            raise ValueError("equivalent needs a margin above 0")
        if self.kind == "at_least" and self.margin < 0:
            raise ValueError("at_least takes the loss it tolerates as a margin of 0 or more")
        return self

    def bounds(self) -> Bounds:
        margin = math.copysign(math.log1p(abs(self.margin)), self.margin) if self.scale == "log" else self.margin
        return {
            "greater": (margin, None),
            "less": (None, 0.0 - margin),  # not -margin, which is shown as -0 for a margin of 0
            "at_least": (0.0 - margin, None),
            "equivalent": (-margin, margin),
        }[self.kind]


class Ordered(Contrast):
    """Each arm of `of` lies above the next one by more than the margin."""

    kind: Literal["ordered"]
    of: list[Arm] = Field(min_length=2)
    margin: float = 0.0

    def pairs(self) -> list[Compare]:
        shared = {key: getattr(self, key) for key in (*Contrast.model_fields, "margin")}
        return [Compare(kind="greater", of=a, than=b, **shared) for a, b in zip(self.of, self.of[1:], strict=False)]


class _Between(Contrast):
    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _bounds_fit(self) -> _Between:
        if self.above is None and self.below is None:
            raise ValueError("needs 'above', 'below' or both")
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise ValueError("'above' must be smaller than 'below'")
        return self

    def bounds(self) -> Bounds:
        return self.above, self.below


class Ratio(_Between):
    """of / than lies between two numbers."""

    kind: Literal["ratio"]
    of: Arm
    than: ArmOrNumber
    scale: Literal["log"] = "log"
    above: float | None = Field(None, gt=0)
    below: float | None = Field(None, gt=0)

    def bounds(self) -> Bounds:
        return tuple(None if bound is None else math.log(bound) for bound in (self.above, self.below))


class Slope(_Between):
    """The slope over x of a seed's values lies between two numbers; on the log scale ln value over ln x."""

    kind: Literal["slope"]
    of: Arm
    x: str | None = None  # a name in `setting`; not needed where the room's estimand returns a column x


class Exact(Contrast):
    """The largest |of - than| over instances is at most the tolerance."""

    kind: Literal["exact"]
    of: Arm
    than: ArmOrNumber = 0.0
    tolerance: float = Field(ge=0)
    scale: Literal["additive"] = "additive"
    resolution: None = None


One = Compare | Ordered | Ratio | Slope | Exact


class All(Strict):
    """Every part must hold."""

    kind: Literal["all"]
    parts: list[Annotated[One, Field(discriminator="kind")]] = Field(min_length=2)


Test = Annotated[One | All, Field(discriminator="kind")]
KINDS = {
    kind: model
    for model in (Compare, Ordered, Ratio, Slope, Exact, All)
    for kind in model.model_fields["kind"].annotation.__args__
}


def _word_or_test(value: Any) -> str:
    return "test" if isinstance(value, (Contrast, All)) or (isinstance(value, dict) and "kind" in value) else "word"


class Control(Strict):
    """What could explain a claim away.

    `equivalent`: the control does as well as the claim's `of`, or falls short by less than the margin.
    `greater`: the control, put in the place of `of`, beats the claim's `than` by more than the margin.
    Anything else is a full test; if it holds, the claim is explained away.
    `floor`: a full test without which the control is not comparable, and says nothing either way.
    """

    arm: str = ""
    variant: str | None = None
    setting: Setting | None = None
    test: Annotated[
        Annotated[Literal["equivalent", "greater"], Tag("word")] | Annotated[Test, Tag("test")],
        Discriminator(_word_or_test),
    ] = "equivalent"
    margin: float = Field(0.0, ge=0)
    floor: Test | None = None
    says: str = ""

    @model_validator(mode="before")
    @classmethod
    def _bare_test(cls, value: Any) -> Any:
        if isinstance(value, dict) and "kind" in value:
            own = {key: value[key] for key in ("says", "floor") if key in value}
            return own | {"test": {k: v for k, v in value.items() if k not in own}}
        return value

    @model_validator(mode="after")
    def _arm_or_test(self) -> Control:
        if isinstance(self.test, str) != bool(self.arm):
            raise ValueError("a control has an arm and 'test: equivalent' or 'test: greater', or else a full test")
        return self


class Source(Strict):
    arxiv: Annotated[str, BeforeValidator(_arxiv), Field(pattern=r"^\d{4}\.\d{4,5}(v\d+)?$")]
    where: str
    read: Literal["paper", "code", "second-hand"]


class Claim(Strict):
    id: str = Field(pattern=r"^[a-z0-9_]+\.[a-z0-9][a-z0-9.-]*$")
    says: str
    source: Source
    paper: dict[str, float | str] | None = None
    fidelity: Literal["same-model", "same-data", "analogue", "theorem"]
    test: Test
    floor: (
        Annotated[
            Annotated[ArmOrNumber, Tag("word")] | Annotated[Test, Tag("test")],
            Discriminator(_word_or_test),
        ]
        | None
    ) = None
    explains_away: list[Control] = []

    @model_validator(mode="before")
    @classmethod
    def _published_numbers(cls, value: Any) -> Any:
        for name, number in ((value.get("paper") or {}) if isinstance(value, dict) else {}).items():
            if name != "note" and isinstance(number, str) and not NUMBER.match(number):
                raise ValueError(f"paper.{name} is {number!r}, not a number; free text goes under paper.note")
        return value

    @model_validator(mode="after")
    def _shorthands_fit(self) -> Claim:
        one_sided = isinstance(self.test, Compare) and self.test.kind != "equivalent"
        if isinstance(self.floor, (float, Side)) and not isinstance(self.test, (Compare, Ordered)):
            raise ValueError(f"floor of a test of kind {self.test.kind!r} must be a full test, not an arm or number")
        if any(control.arm for control in self.explains_away) and not one_sided:
            raise ValueError(f"explains_away of a test of kind {self.test.kind!r} must hold full tests, not arms")
        return self

    def floor_test(self) -> One | All | None:
        """The reference arm (`than`; `of` where `than` is a number; the last of an order) beats the floor."""
        if self.floor is None or isinstance(self.floor, (Contrast, All)):
            return self.floor
        test = self.test
        reference = test.of[-1] if isinstance(test, Ordered) else test.than if isinstance(test.than, Side) else test.of
        if isinstance(test, Ordered):
            test = test.pairs()[-1]
        kind = "less" if test.kind == "less" else "greater"
        return test.model_copy(update={"kind": kind, "of": reference, "than": self.floor, "margin": 0.0})

    def control_test(self, control: Control) -> One | All:
        if not control.arm:
            return control.test
        # The side that a control stands for lends it the task, estimand, variant and setting it does not name itself.
        named = {key: getattr(control, key) for key in ("variant", "setting") if getattr(control, key) is not None}
        side = self.test.of.model_copy(update={"arm": control.arm, **named})
        down = self.test.kind == "less"
        if control.test == "equivalent":
            update = {"kind": "less" if down else "at_least", "than": self.test.of}
            update["margin"] = -control.margin if down else control.margin
        else:
            update = {"kind": "less" if down else "greater", "margin": control.margin}
        return self.test.model_copy(update={"of": side, **update})


def arms_named(claim: Claim) -> set[tuple[str, str]]:
    """Every (arm, task) that a claim, its controls or a floor of either use."""
    tests = [claim.test, claim.floor_test(), *(claim.control_test(control) for control in claim.explains_away)]
    tests += [control.floor for control in claim.explains_away]
    flat = [part for test in tests if test is not None for part in (test.parts if isinstance(test, All) else [test])]
    return {(side.arm, side.task) for test in flat for side in test.sides()}


def load_claims(path: Path) -> list[Claim]:
    """The claims of one file. Raises TychoError: one line with file, claim, field and the nearest match of a typo."""
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: no text, or a date that cannot be
        raise TychoError(f"{path} cannot be read as YAML: {one_line(error)}") from error
    if not isinstance(raw, list):
        raise TychoError(f"{path} must hold a list of claims, each beginning with '- id:'")
    claims: dict[str, Claim] = {}
    for number, entry in enumerate(raw, start=1):
        name = entry.get("id", f"claim {number}") if isinstance(entry, dict) else f"claim {number}"
        try:
            claim = Claim.model_validate(entry)
        except ValidationError as error:
            raise TychoError(f"{path}: {name}: {_first(error)}") from error
        if claim.id in claims:
            raise TychoError(f"{path}: {name}: this id stands twice; every claim needs its own")
        claims[claim.id] = claim
    return list(claims.values())


def _first(error: ValidationError) -> str:
    """The first mistake as one line; a mistyped kind or field comes with the nearest match."""
    found = error.errors()
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])  # a typo before what it left out
    # Pydantic puts union tags (word, test, and the kind) into the path, which the reader's file does not have.
    model, where = Claim, []
    for part in first["loc"]:
        if part in KINDS and where:
            model = KINDS[part]
        elif part != "word" and (part != "test" or where[-1:] not in (["floor"], ["test"])):
            where.append(str(part))
            model = {"source": Source, "explains_away": Control, "of": Side, "than": Side}.get(part, model)
    field, more = ".".join(where) or "claim", f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    if first["type"] == "union_tag_invalid":
        return f"{field}: {unknown('kind', str(first['ctx']['tag']), KINDS)}{more}"
    if first["type"] == "union_tag_not_found":
        return f"{field}: a test needs a 'kind', one of {', '.join(KINDS)}{more}"
    if first["type"] == "extra_forbidden":
        return f"{field}: {unknown('field', where[-1], model.model_fields)}{more}"
    return f"{field}: {first['msg'].removeprefix('Value error, ')}{more}"
