"""The output's schema: what a job leaves behind, as tidy parquet. Records are the truth; MLflow and the report are views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pandera.pandas as pa

from tycho.errors import TychoError, one_line
from tycho.files import replacing

# Raised when a column changes its name or meaning; older folders are then refused by name, never misread.
SCHEMA = 1

# What a spreadsheet takes for a formula; full-width signs as well.
FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
STAGES = ("train", "evaluate", "analyse", "synthesise")


def _schema(*groups: dict[str, pa.Column]) -> pa.DataFrameSchema:
    return pa.DataFrameSchema(
        {name: column for group in groups for name, column in group.items()}, strict=True, coerce=True
    )


def _count() -> pa.Column:
    return pa.Column("Int64", pa.Check.ge(0), nullable=True)


def _amount() -> pa.Column:
    return pa.Column("float64", pa.Check.ge(0))


KEYS = {
    "scale": pa.Column("string"),
    "method": pa.Column("string"),
    "arm": pa.Column("string"),
    "task": pa.Column("string"),
    "seed": pa.Column("int64", pa.Check.ge(0)),
}
# One process may emit many points: twenty voting rules over one pool (variant), a sweep (setting "M=23,r=2.5").
POINT = {"variant": pa.Column("string"), "setting": pa.Column("string")}

SCHEMAS = {
    "metrics": _schema(
        KEYS,
        POINT,
        {
            "stage": pa.Column("string", pa.Check.isin(STAGES)),
            "name": pa.Column("string"),
            "step": _count(),  # missing: the final value
            "value": pa.Column("float64", nullable=True),
            "censored": pa.Column("bool"),  # the true value is at least `value` (a time that never came)
        },
    ),
    "samples": _schema(
        KEYS,
        POINT,
        {
            "item": pa.Column("string"),  # hash of the example, equal across arms and seeds
            "split": pa.Column("string"),
            "prompt": pa.Column("string"),
            "response": pa.Column("string"),
            "answer": pa.Column("string"),
            "target": pa.Column("string"),
            "correct": pa.Column("bool"),
            "score": pa.Column("float64"),
            "generated_tokens": _count(),
            "sequential_tokens": _count(),  # the critical path
            "forward_passes": _count(),
            "flops": pa.Column("Float64", pa.Check.ge(0), nullable=True),  # analytic
        },
    ),
    "traces": _schema(
        KEYS,
        POINT,
        {
            "item": pa.Column("string"),
            "trace": pa.Column("int64", pa.Check.ge(0)),
            "segment": pa.Column("int64", pa.Check.ge(0)),
            "parent": _count(),  # missing: the root segment
            "tokens": pa.Column("object", coerce=False),  # list of token ids
            "confidences": pa.Column("object", coerce=False),  # one a token
        },
    ),
    "costs": _schema(
        KEYS,
        {
            "stage": pa.Column("string", pa.Check.isin(STAGES)),
            "started": pa.Column("string"),  # ISO 8601, UTC
            "wall_seconds": _amount(),
            "cpu_seconds": _amount(),
            "peak_memory_mb": _amount(),
            "device": pa.Column("string"),
            "threads": pa.Column("int64", pa.Check.ge(1)),
            "flops": pa.Column("Float64", pa.Check.ge(0), nullable=True),
            "generated_tokens": _count(),
            "forward_passes": _count(),
        },
    ),
}
# What a method may leave out of a frame it hands over, and what then stands there.
DEFAULTS = {
    "variant": "",
    "setting": "",
    "step": pd.NA,
    "censored": False,
    "split": "test",
    "response": "",
    "answer": "",
    "generated_tokens": pd.NA,
    "sequential_tokens": pd.NA,
    "forward_passes": pd.NA,
    "flops": pd.NA,
    "trace": 0,
    "segment": 0,
    "parent": pd.NA,
}


def empty(kind: str) -> pd.DataFrame:
    return SCHEMAS[kind].validate(pd.DataFrame(columns=list(SCHEMAS[kind].columns), dtype=object))


def tidy(kind: str, frame: pd.DataFrame, **fixed: object) -> pd.DataFrame:
    """`frame` as records of a kind: columns it lacks filled from `fixed`, then from the defaults; checked, ordered, typed."""
    schema = SCHEMAS[kind]
    if not frame.columns.is_unique or not all(isinstance(name, str) for name in frame):
        raise TychoError(f"{kind} has columns without a name of their own: {[str(name) for name in frame]}")
    filled = {name: value for name, value in (DEFAULTS | fixed).items() if name in schema.columns and name not in frame}
    frame = frame.assign(**filled).reset_index(drop=True)
    if "score" in schema.columns and "score" not in frame and "correct" in frame:
        frame["score"] = frame["correct"]
    lacking, extra = set(schema.columns) - set(frame), set(frame) - set(schema.columns)
    if lacking or extra:
        raise TychoError(
            f"{kind} has wrong columns: missing {sorted(lacking)}, unknown {sorted(extra)}; it takes {list(schema.columns)}"
        )
    # By way of the nullable types, since numpy's make True of "False" and of 0.3, and 1 of 1.9.
    for name, column in schema.columns.items():
        strict = {"bool": "boolean", "int64": "Int64", "Int64": "Int64"}.get(str(column.dtype))
        try:
            frame[name] = frame[name].astype(strict) if strict else frame[name]
        except (TypeError, ValueError, OverflowError) as error:
            raise TychoError(f"{kind}.{name} takes {column.dtype}: {one_line(error)}") from error
    try:
        return schema.validate(frame[list(schema.columns)], lazy=True)
    except pa.errors.SchemaErrors as error:
        case = error.failure_cases.iloc[0]
        raise TychoError(f"{kind}.{case['column']} breaks {case['check']!r}: {case['failure_case']!r}") from error


def write(path: Path, frame: pd.DataFrame) -> None:
    """Parquet with the schema's number in its header; equal frames give equal bytes."""
    import pyarrow as arrow
    import pyarrow.parquet as pq

    try:
        table = arrow.Table.from_pandas(frame, preserve_index=False)
    except arrow.ArrowException as error:
        raise TychoError(f"{path.name} cannot hold this frame: {one_line(error)[:200]}") from error
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"tycho": str(SCHEMA).encode()})
    with replacing(path) as beside:
        pq.write_table(table, beside, compression="zstd", write_page_checksum=True)


def read(path: Path, mend: str = "delete it and run again") -> pd.DataFrame:
    """A parquet file that `write` wrote. Broken, foreign and older files are refused in one line that names them."""
    import pyarrow as arrow
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, page_checksum_verification=True)
        schema = (table.schema.metadata or {}).get(b"tycho", b"none").decode()
        frame = table.to_pandas()
    except (arrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:  # the last three: a broken header
        raise TychoError(f"{path} cannot be read ({one_line(error)[:120]}): {mend}") from error
    if schema != str(SCHEMA):
        raise TychoError(
            f"{path} has record schema {schema}, this Tycho reads {SCHEMA}: move the folder away and run again, "
            "or read it with the version that wrote it"
        )
    return frame


def as_csv(frame: pd.DataFrame) -> str:
    """CSV for any program: text that a spreadsheet would run as a formula gets an apostrophe before it."""
    safe = frame.rename(columns=_no_formula)
    for place, (_, column) in enumerate(frame.items()):
        if not pd.api.types.is_numeric_dtype(column):
            safe.isetitem(place, column.map(_no_formula, na_action="ignore"))
    # Python quotes a carriage return within a cell only where lines end in one.
    return safe.to_csv(index=False, lineterminator="\r\n")


def _no_formula(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.lstrip().startswith(FORMULA) else cell
