"""What a tool's docstring says of it and of its arguments, in Google's, NumPy's or Sphinx's style."""

import re

_ARGUMENTS = ("args", "arguments", "parameters", "params", "other parameters", "keyword args", "keyword arguments")
_RETURNS = ("returns", "return")
_OTHERS = ("raises", "yields", "examples", "example", "notes", "note", "warns", "warnings", "references", "see also")
_HEADING = re.compile(r"\s*([A-Za-z][A-Za-z ]*):\s*")
_GOOGLE = re.compile(r"(\s*)\*{0,2}(\w+)\s*(?:\(.*?\))?\s*:(?:\s+(.*))?")  # name: text, name (type): text
_NUMPY = re.compile(r"(\*{0,2}\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?")  # name : type, or two names
_SPHINX = re.compile(r"\s*[:@](\w+)(?:\s+([^:]*))?:\s*(.*)")  # :param name: text, :param type name: text


def parse_docstring(text: str) -> tuple[str, dict[str, str], str]:
    """The description, each argument's line by its name, and what is returned ("" if it does not say).

    Google's style is read as transformers' ``get_json_schema`` reads it (which knows no other), with types in
    parentheses as well. A text that goes on in further lines is joined to one.
    """
    lines = text.strip().split("\n")
    parts: dict[str, list[str]] = {"": [], "returns": [], "other": []}
    arguments: dict[str, list[str]] = {}
    section, numpy, indent = "", False, 0
    items: list[str] = []  # the arguments that a line that goes on belongs to
    for number, line in enumerate(lines):
        following = lines[number + 1].strip() if number + 1 < len(lines) else ""
        underlined = bool(following) and set(following) == {"-"}
        heading = _heading(line.strip() if underlined else (_HEADING.fullmatch(line) or ("", ""))[1])
        if heading is not None:
            section, numpy, items = heading, underlined, []
        elif sphinx := _SPHINX.fullmatch(line):
            field, name, said = sphinx[1], (sphinx[2] or "").split()[-1:], sphinx[3]
            section, items = "other", []
            if field in ("param", "arg", "argument", "parameter", "key", "keyword") and name:
                section, items, indent = "args", [name[0].lstrip("*")], -1
                arguments[items[0]] = [said]
            elif field in ("return", "returns"):
                section = "returns"
                parts[section].append(said)
        elif section != "args":
            parts[section].append(line)
        elif line.strip() and set(line.strip()) != {"-"}:
            name_line = _NUMPY.fullmatch(line) if numpy else _GOOGLE.fullmatch(line)
            if numpy and name_line and indent >= 0:
                items = [name.strip(" *") for name in name_line[1].split(",")]
                arguments |= {name: [] for name in items}
            elif not numpy and name_line and indent >= 0 and (not items or len(name_line[1]) <= indent):
                items, indent = [name_line[2]], len(name_line[1])
                arguments[items[0]] = [name_line[3] or ""]
            else:
                for name in items:
                    arguments[name].append(line)
    return (
        "\n".join(parts[""]).strip(),
        {name: " ".join(part.strip() for part in said if part.strip()) for name, said in arguments.items()},
        "\n".join(parts["returns"]).strip(),
    )


def _heading(title: str) -> str | None:
    """The section that a heading begins, None if the text is no heading."""
    title = title.lower()
    return "args" if title in _ARGUMENTS else "returns" if title in _RETURNS else "other" if title in _OTHERS else None
