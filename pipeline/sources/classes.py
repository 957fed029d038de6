"""Class names to numbers: an explicit order, renames and drops; an unknown name is an error, never a shifted id."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated

from tyro.constructors import PrimitiveConstructorSpec

from pipeline.command.console import counted, say
from pipeline.command.suggest import nearest

# One occurrence of an option that takes several names: `--drop bus bike` becomes 'bus,bike' (see split_names).
Names = Annotated[
    str,
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="NAME [NAME ...]",
        instance_from_str=",".join,
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda text: text.split(","),
    ),
]


def parse_renames(pairs: Sequence[str]) -> dict[str, str]:
    renames: dict[str, str] = {}
    for pair in pairs:
        old, separator, new = pair.partition("=")
        if not separator or not old.strip() or not new.strip():
            raise ValueError(f"--map {pair!r}: expected OLD=NEW, for example --map motorcycle=motor")
        if renames.setdefault(old.strip(), new.strip()) != new.strip():
            raise ValueError(f"--map gives {old.strip()!r} two new names")
    return renames


OTHERS = "*"


def split_names(values: Sequence[str]) -> tuple[str, ...]:
    """`--classes bus bike` and `--classes bus,bike` mean the same."""
    return tuple(name.strip() for value in values for name in value.split(",") if name.strip())


def build_class_table(
    found: Mapping[str, int],
    listed: Sequence[str],
    classes: Sequence[str],
    renames: Mapping[str, str],
    drop: Sequence[str],
) -> tuple[tuple[str, ...], dict[str, int]]:
    """(classes in order, {source name: label 1..K-1, or 0 when dropped}).

    found: {name: objects} of the annotations; listed: the source's own ordered list, if it has one (YOLO, COCO);
    classes: the user's order, which wins. A drop of `*`: every name that this order leaves out.
    """
    known = dict.fromkeys((*listed, *found))
    if OTHERS in drop:
        if not classes:
            raise ValueError(f"--drop '{OTHERS}' leaves out all that --classes does not name: give --classes too")
        if len(drop) > 1:
            raise ValueError(f"--drop '{OTHERS}' leaves out all that --classes does not name: give no name beside it")
        for name in classes:
            if name not in known and name not in renames.values():
                say(f"note: --classes {name}: no object here has this class{nearest(name, known)}")
        drop = [name for name in known if name not in classes and name not in renames]
    unmatched = [(option, name) for option, names in (("--map", renames), ("--drop", drop)) for name in names]
    unmatched = [(option, name) for option, name in unmatched if name not in known]
    if unmatched and listed:  # a source without a list of its own knows only the names this split happens to hold
        option, name = unmatched[0]
        raise ValueError(
            f"{option} {name}: the dataset has no class of that name{nearest(name, known)}; "
            f"it has {', '.join(known) or 'none'}"
        )
    both = set(renames) & set(drop)
    if both:
        raise ValueError(f"--map and --drop both name {', '.join(sorted(both))}; keep one")
    if not classes:
        if not listed:
            counts = ", ".join(f"{name} ({found[name]})" for name in sorted(found)) or "none"
            raise ValueError(
                f"this source has no class list of its own: give the order with --classes A B C; found {counts}"
            )
        classes = tuple(dict.fromkeys(renames.get(name, name) for name in listed if name not in drop))
    classes = tuple(classes)
    double = [name for name, count in Counter(classes).items() if count > 1]
    if double:
        raise ValueError(f"--classes names {', '.join(double)} more than once")
    number = {name: index for index, name in enumerate(classes, start=1)}
    for old, new in renames.items():
        if new not in number:
            raise ValueError(
                f"--map {old}={new}: {new!r} is not in the class list {', '.join(classes)}{nearest(new, classes)}"
            )
    table: dict[str, int] = {}
    unknown: list[str] = []
    for name, count in found.items():
        if name in drop:
            table[name] = 0
        elif renames.get(name, name) in number:
            table[name] = number[renames.get(name, name)]
        else:
            unknown.append(f"  {name!r} ({counted(count, 'object')}){nearest(name, classes)}")
    for option, name in unmatched:
        say(f"note: {option} {name}: no object here has this class{nearest(name, known)}")
    if unknown:
        raise ValueError(
            f"{counted(len(unknown), 'class', 'classes')} of the dataset {'is' if len(unknown) == 1 else 'are'} "
            f"not in the class list {', '.join(classes)}:\n"
            + "\n".join(unknown)
            + "\nAdd them to --classes, rename them with --map OLD=NEW, or leave their objects out with --drop NAME; "
            f"--drop '{OTHERS}' leaves all others out"
        )
    return classes, table
