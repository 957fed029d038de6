"""Which images are taken and which domain each belongs to, by attributes that the annotations give (weather=clear).

Names and values are compared without case, and a blank is the same as '_'.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pipeline.command.console import counted, say
from pipeline.command.suggest import nearest
from pipeline.files.escape import printable_line
from pipeline.sources.classes import split_names
from pipeline.sources.options import ReadOptions

MOST_ATTRIBUTES = 50  # of an image; more are not looked at
LONGEST = 200  # characters of a value
SHOWN = 12


def spelled(text: str) -> str:
    return text.strip().lower().replace(" ", "_")


def fits(value: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(spelled(value), spelled(pattern)) for pattern in patterns)


def choose_domains(
    patterns: Sequence[str], names: Sequence[str], where: str, called: Callable[[str], str] = str
) -> list[str]:
    """The names that fit any of the patterns, in their own order; a pattern that fits none is an error.

    called: gives the other name of a domain, which may be asked for, too.
    """

    def chosen(name: str, patterns: Sequence[str]) -> bool:
        return fits(name, patterns) or fits(called(name), patterns)

    for pattern in patterns:
        if not any(chosen(name, (pattern,)) for name in names):
            shown = ", ".join(printable_line(name) for name in names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")
            raise ValueError(f"--domains {pattern}: {where} has {shown or 'no images'}{nearest(pattern, names)}")
    return [name for name in names if chosen(name, patterns)]


def plain_attributes(values: Any) -> dict[str, str]:
    """{name: value} of what is text, a number or true/false in an untrusted JSON object."""
    if not isinstance(values, dict):
        return {}
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(name, str) and isinstance(value, (str, int, float)) and len(found) < MOST_ATTRIBUTES:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            if text.strip() and len(text) <= LONGEST:
                found[spelled(name)] = text.strip()
    return found


def parse_where(pairs: Sequence[str], option: str) -> dict[str, list[str]]:
    wanted: dict[str, list[str]] = {}
    for pair in split_names(pairs):
        name, separator, value = pair.partition("=")
        if not separator or not name.strip() or not value.strip():
            raise ValueError(f"{option} {pair!r}: expected NAME=VALUE, for example {option} weather=clear")
        wanted.setdefault(spelled(name), []).append(value.strip())
    return wanted


class Choice:
    """Asked about each image in turn; `check` at the end refuses what fitted no image at all."""

    def __init__(self, options: ReadOptions, domain: str, fallback: str):
        self.patterns = split_names(options.domains)
        self.where, self.where_not = (
            parse_where(options.where, "--where"),
            parse_where(options.where_not, "--where-not"),
        )
        self.domain, self.fallback, self.rule = domain, fallback, options.domain_name
        self.rule_names = {spelled(name) for name in re.findall(r"\{([^{}]*)\}", self.rule)}
        if domain and self.rule:
            raise ValueError("--domain gives one name and --domain-name a rule: use one of the two")
        if self.rule and (not self.rule_names or re.search(r"[{}]", re.sub(r"\{[^{}]+\}", "", self.rule))):
            raise ValueError(
                f"--domain-name {self.rule!r}: expected attributes in braces, for example '{{weather}}_{{timeofday}}'"
            )
        self.seen: Counter[tuple[str, str]] = Counter()  # values of the attributes that the options name
        self.names: Counter[str] = Counter()  # of attributes
        self.domains: Counter[str] = Counter()
        self.num_seen = self.num_taken = 0

    def take(self, picture: Path, attributes: Mapping[str, str], own_rule: str = "") -> str | None:
        """The domain of this image, or None when it is left out. own_rule: the format's own; it may not apply."""
        attributes = {"folder": picture.parent.name, **attributes}
        self.num_seen += 1
        self.names.update(attributes.keys())
        asked = self.where.keys() | self.where_not.keys()
        self.seen.update((name, attributes[name]) for name in asked & attributes.keys())
        domain = self.domain or self.name_domain(attributes, own_rule)
        self.domains[domain] += 1
        taken = (
            (not self.patterns or fits(domain, self.patterns))
            and all(name in attributes and fits(attributes[name], values) for name, values in self.where.items())
            and not any(
                name in attributes and fits(attributes[name], values) for name, values in self.where_not.items()
            )
        )
        self.num_taken += taken
        return domain if taken else None

    def name_domain(self, attributes: Mapping[str, str], own_rule: str) -> str:
        rule = self.rule or own_rule
        names = {spelled(name) for name in re.findall(r"\{([^{}]*)\}", rule)}
        if not rule or (not self.rule and not names <= attributes.keys()):
            return self.fallback

        def value(match: re.Match) -> str:
            # BDD100K's own word for what it does not know.
            return attributes.get(spelled(match[1]), "undefined").replace(" ", "_")[:40]

        return printable_line(re.sub(r"\{([^{}]*)\}", value, rule))

    def check(self, root: Path) -> None:
        if not self.num_seen:
            return
        for option, names in (
            ("--where", self.where),
            ("--where-not", self.where_not),
            ("--domain-name", self.rule_names),
        ):
            for name in names:
                if not self.names[name]:
                    known = [printable_line(other) for other, _ in self.names.most_common(SHOWN)]
                    raise ValueError(
                        f"{option}: no image of {root} has the attribute {name!r}{nearest(name, known)}; "
                        f"there are {', '.join(known)}"
                    )
        for option, wanted in (("--where", self.where), ("--where-not", self.where_not)):
            for name, patterns in wanted.items():
                values = [value for key, value in self.seen if key == name]
                without = [pattern for pattern in patterns if not any(fits(value, (pattern,)) for value in values)]
                if not without:
                    continue
                common = [(self.seen[name, value], printable_line(value)) for value in values]
                shown = ", ".join(f"{value} ({count})" for count, value in sorted(common, reverse=True)[:SHOWN])
                what = f"no image has this value{nearest(without[0], values)}; {name} is {shown}"
                if option == "--where" and len(without) == len(patterns):
                    raise ValueError(f"{option} {name}={without[0]}: {what}")
                say(f"note: {option} {name}={without[0]}: {what}")
        choose_domains(self.patterns, sorted(self.domains), str(root))
        if not self.num_taken:
            raise ValueError(
                f"{root}: no image fits --domains, --where and --where-not together; leave one of them out"
            )
        if self.num_taken < self.num_seen:
            say(f"{root.name}: {self.num_taken} of {counted(self.num_seen, 'image')} chosen by their attributes")
