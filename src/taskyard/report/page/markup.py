"""HTML, with everything that comes from outside escaped."""

from __future__ import annotations

import html
import re

__all__ = ["Markup", "element", "text"]

_NOT_ALLOWED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Markup(str):
    """Text that is HTML already; any other is escaped when it is put into some."""

    __slots__ = ()


def text(content: object, most: int = 0) -> Markup:
    """Escape anything, so that it is text wherever it is put.

    Arguments:
        content: is shown as `str` has it; `Markup` stays what it is.
        most: how many characters are shown; 0: all.
    """
    if isinstance(content, Markup):
        return content
    shown = str(content)
    if most and len(shown) > most:
        shown = shown[: most - 1] + "…"
    return Markup(html.escape(_NOT_ALLOWED.sub("\ufffd", shown), quote=True))


def element(name: str, *content: object, **attributes: object) -> Markup:
    """An element.

    Arguments:
        name: its name.
        content: what is in it; what is no `Markup` is escaped.
        attributes: `_` stands for `-` in their names, and is left out at the end of one; those that
            are None or False are left out, of those that are True only the name is written.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    return Markup(f"<{name}{written}>{''.join(map(text, content))}</{name}>")


def _attribute(name: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{text(value)}"'
