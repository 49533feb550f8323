"""The one error a user sees: a line that says what was wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TychoError(Exception):
    """Raised for anything the user can mend. The command line prints its text as one line; the traceback goes to the log."""


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> TychoError:
    """An error for a mistyped name, with the nearest match or, where nothing is near, what there is."""
    known = sorted(known)
    spelt = {other.lower(): other for other in known}
    near = difflib.get_close_matches(str(name).lower(), spelt, n=1, cutoff=0.6)
    offer = f"did you mean {spelt[near[0]]!r}?" if near else f"there is: {', '.join(known) or 'nothing'}"
    return TychoError(f"unknown {kind} {name!r}: {offer}{' ' + hint if hint else ''}")


def one_line(error: BaseException) -> str:
    """An exception as one line for a status file or the terminal."""
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, TychoError) else f"{type(error).__name__}: {text}"
