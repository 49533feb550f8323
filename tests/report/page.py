"""Reads a report's page as a browser would, and says what is wrong with it."""

from __future__ import annotations

import functools
import re
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "br", "hr", "img", "input", "base", "source", "col", "wbr"}
# What makes a browser fetch or run something.
LOADING = {"src", "srcset", "action", "formaction", "background", "poster", "data", "ping", "manifest"}


@functools.lru_cache(maxsize=64)
def ids_of(path: Path) -> frozenset[str]:
    return frozenset(re.findall(r'\bid="([^"]*)"', path.read_text(encoding="utf-8")))


class Page(HTMLParser):
    """Tags, ids, links and text of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts = self.text = ""
        self.wrong: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        self.wrong += [f"<{tag}> is never closed" for tag in self.open]
        self.wrong += [f"id {found!r} stands twice" for found in {i for i in self.ids if self.ids.count(i) > 1}]
        for link in set(self.links):
            file, _, place = link.partition("#")
            if link.startswith(("https://arxiv.org/abs/", "http://127.0.0.1:5000/#/experiments/")):
                continue
            target = path.parent / file if file else path
            if not target.is_file():
                self.wrong.append(f"{link} is not there")
            elif place and place not in (self.ids if target == path else ids_of(target)):
                self.wrong.append(f"{link} leads nowhere")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
        if found.get("id"):
            self.ids.append(found["id"] or "")
        for name, value in found.items():
            if name.startswith("on") or name in LOADING or (name == "style" and "url(" in (value or "")):
                self.wrong.append(f"<{tag} {name}={value!r}>")
            if name in ("href", "xlink:href"):
                self.links.append(value or "")
        if tag in ("img", "iframe", "object", "embed", "link", "base", "foreignobject", "form"):
            self.wrong.append(f"<{tag}>")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.wrong.append(f"</{tag}> closes {self.open[-1:] or 'nothing'} at {self.getpos()}")
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts += data
        elif self.open[-1:] != ["style"]:
            self.text += data
        elif re.search(r"url\(|@import|@font-face", data):
            self.wrong.append("the style loads something")

    def count(self, tag: str, css: str = "") -> int:
        return sum(name == tag and (not css or css in (found.get("class") or "").split()) for name, found in self.tags)
