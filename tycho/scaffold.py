"""`tycho new-method`: a room that runs at once, with a toy measurement to replace."""

from __future__ import annotations

import keyword
from pathlib import Path

from tycho.errors import TychoError
from tycho.files import write_text
from tycho.keys import NAME

TEMPLATES = Path(__file__).parent / "templates" / "room"


def make_room(name: str, into: Path) -> list[Path]:
    """Writes `into/name/` from the templates; nothing that is there is touched."""
    import jinja2

    if not NAME.match(name) or not name.isidentifier() or keyword.iskeyword(name):
        raise TychoError(
            f"a method's name is its folder and its Python module: lower case, digits and '_', not {name!r}"
        )
    room = into / name
    if room.exists():
        raise TychoError(f"{room} is there already: choose another name or edit it")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        # Braces stay Python's own in the templates.
        variable_start_string="<<",
        variable_end_string=">>",
    )
    words = {
        "name": name,
        "title": name.replace("_", " ").capitalize(),
        "cls": "".join(part.capitalize() for part in name.split("_")),
    }
    written = []
    for template in sorted(environment.list_templates()):
        path = room / template.removesuffix(".j2")
        write_text(path, environment.get_template(template).render(words))
        written.append(path)
    return written
