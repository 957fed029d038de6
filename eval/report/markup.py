"""HTML from Python values: all is escaped unless it already is `Html`, so a class called <script> is harmless."""

from html import escape


class Html(str):
    """Text that is already markup."""

    __slots__ = ()


VOID = {"br", "hr", "img", "input", "meta", "link", "line", "rect", "circle", "path", "polyline", "use", "image"}


def text(value) -> Html:
    """Markup of a value: itself when it is Html, joined when it is a list, nothing for None, else escaped."""
    if isinstance(value, Html):
        return value
    if value is None:
        return Html("")
    if isinstance(value, list | tuple):
        return Html("".join(text(item) for item in value))
    return Html(escape(str(value), quote=True))


def tag(name: str, /, *children, **attributes) -> Html:
    """<name attributes>children</name>. class_ is class; underscores become hyphens; True is a bare attribute."""
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        parts.append(key if value is True else f'{key}="{escape(str(value), quote=True)}"')
    opening = " ".join(parts)
    if name in VOID and not children:
        return Html(f"<{opening}/>" if name not in ("br", "hr", "img", "input", "meta", "link") else f"<{opening}>")
    return Html(f"<{opening}>{text(list(children))}</{name}>")


def number(value: float | None, digits: int = 1, sign: str = "-") -> str:
    """A figure as people read it; an en dash where there is none."""
    return "–" if value is None else f"{value:{sign}.{digits}f}".replace("-", "−")
