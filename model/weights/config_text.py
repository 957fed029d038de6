"""The assignments of a configuration file in Python, read as plain data: parsed, never run."""

import ast
from typing import Any

# Of what all assignments are once names are replaced: a line a = [a, a] doubles it, and whoever looks through it waits.
MAX_VALUES, MAX_DEPTH = 1_000_000, 40


class NotPlain(ValueError):
    """Something that is more than data, or less."""


def is_key(node: ast.expr | None) -> bool:
    """Text or a number: a tuple's hash looks through all that is in it."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str | int | float)


def evaluate(node: ast.expr, known: dict[str, Any]) -> Any:
    """Constants, tuples, lists, dicts and dict(...), signs, and names assigned before."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Tuple(elts=items):
            return tuple(evaluate(item, known) for item in items)
        case ast.List(elts=items):
            return [evaluate(item, known) for item in items]
        case ast.Dict(keys=keys, values=values) if all(is_key(key) for key in keys):
            return {
                key.value: evaluate(value, known)
                for key, value in zip(keys, values, strict=True)
                if isinstance(key, ast.Constant)
            }
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords) if all(item.arg for item in keywords):
            return {str(item.arg): evaluate(item.value, known) for item in keywords}
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = evaluate(operand, known)
            if isinstance(value, int | float):
                return -value
        case ast.Name(id=name) if name in known:
            return known[name]
    raise NotPlain(f"line {node.lineno}: {ast.unparse(node)[:60]}")


def count_values(value: Any, most: int) -> int:
    """How many values a value consists of; more than `most` or too deep is NotPlain."""
    count, stack = 0, [(value, 1)]
    while stack:
        item, depth = stack.pop()
        count += 1
        if isinstance(item, list | tuple | dict):
            inner = item.values() if isinstance(item, dict) else item
            if count + len(stack) + len(inner) > most or depth == MAX_DEPTH:
                raise NotPlain(f"has more than {MAX_VALUES} values or is nested deeper than {MAX_DEPTH} levels")
            stack += [(one, depth + 1) for one in inner]
    return count


def read_assignments(text: str) -> dict[str, Any]:
    """{name: value} of the assignments whose value is plain data; the others are left out."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NotPlain(f"is no Python ({error})") from None
    known: dict[str, Any] = {}
    left = MAX_VALUES
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            try:
                value = evaluate(statement.value, known)
            except (NotPlain, RecursionError):
                known.pop(name, None)
                continue
            left -= count_values(value, left)
            known[name] = value
    return known
