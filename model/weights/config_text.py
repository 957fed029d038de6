"""The assignments of a configuration file in Python, read as plain data: parsed, never run."""

import ast
from typing import Any


class NotPlain(ValueError):
    """Something that is more than data, or less."""


def evaluate(node: ast.expr, known: dict[str, Any]) -> Any:
    """Constants, tuples, lists, dicts and dict(...), signs, and names assigned before."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Tuple(elts=items):
            return tuple(evaluate(item, known) for item in items)
        case ast.List(elts=items):
            return [evaluate(item, known) for item in items]
        case ast.Dict(keys=keys, values=values) if all(key is not None for key in keys):
            return {
                evaluate(key, known): evaluate(value, known)
                for key, value in zip(keys, values, strict=True)
                if key is not None
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


def read_assignments(text: str) -> dict[str, Any]:
    """{name: value} of the assignments whose value is plain data; the others are left out."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NotPlain(f"is no Python ({error})") from None
    known: dict[str, Any] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            try:
                known[statement.targets[0].id] = evaluate(statement.value, known)
            except (NotPlain, TypeError):
                known.pop(statement.targets[0].id, None)
    return known
