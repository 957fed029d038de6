"""Which folder may import which, and that no two files import each other in a circle."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("kernels", "pipeline", "model", "train", "eval")
# Commands may look further: they print with pipeline's console, and one times the views.
COMMANDS = {"kernels.bench": ("pipeline",), "model.export": ("pipeline",)}
ALLOWED = {
    "kernels": ("kernels",),
    "pipeline": ("kernels", "pipeline"),
    "model": ("kernels.detection", "pipeline.files", "model"),
    "eval": ("kernels", "pipeline", "model", "eval"),
    "train": FOLDERS,
}


def find_modules() -> dict[str, Path]:
    modules = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def is_late(node: ast.AST) -> bool:
    """Whether what stands in a node runs only after its file was imported, or when that is the command itself."""
    is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    return is_function or (isinstance(node, ast.If) and "__main__" in ast.unparse(node.test))


def walk(node: ast.AST, late: bool) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if late or not is_late(child):
            yield from walk(child, late)


def find_imports(path: Path, modules: dict[str, Path], late: bool = True) -> set[str]:
    """The modules of ours that a file names, wherever in it the import stands; without `late`, those at its import."""
    found = set()
    for node in walk(ast.parse(path.read_text()), late):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else str(node.module) for name in named}
    return found & modules.keys()


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    modules = find_modules()
    return {name: find_imports(path, modules) - {name} for name, path in modules.items()}


def test_imports_follow_the_arrow(imports):
    def inside(name: str, allowed: tuple[str, ...]) -> bool:
        return any(name == folder or name.startswith(f"{folder}.") for folder in allowed)

    wrong = [
        f"{name} imports {other}"
        for name, others in imports.items()
        for other in sorted(others)
        if not inside(other, ALLOWED[name.split(".")[0]] + COMMANDS.get(name, ()))
    ]
    assert not wrong, "\n".join(wrong)


def test_importing_the_kernels_brings_nothing_else_along():
    modules = find_modules()
    wrong = [
        f"{name} imports {other}"
        for name, path in modules.items()
        if name.split(".")[0] == "kernels"
        for other in sorted(find_imports(path, modules, late=False))
        if other.split(".")[0] != "kernels"
    ]
    assert not wrong, "\n".join(wrong)
    assert "pipeline.views" in find_imports(modules["kernels.bench"], modules)
    assert "pipeline.views" not in find_imports(modules["kernels.bench"], modules, late=False)


def test_no_two_files_import_each_other_in_a_circle(imports):
    try:
        list(TopologicalSorter(imports).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_every_folder_with_code_is_packaged():
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in find_modules().values()}
    assert sorted(listed) == sorted(folders)


@pytest.mark.parametrize(
    "command",
    [
        "train.run teacher_small --data {0} --out {0}/run",
        "train.run cdfkd_small --teacher {0} --out {0}/run",
        "eval.predict {0} {0} --out {0}",
        "eval.run {0} --data {0}",
        "model.export {0} --to onnx",
        "train.translate cut_small --source {0} --target {0} --out {0}/run",
        "eval.translate {0} --data {0} --out {0}",
        "eval.distance --target {0} --data {0}",
    ],
)
def test_a_wrong_path_is_named_before_torch_is_imported(command, tmp_path):
    """Torch and what needs it take seconds to import."""
    module, *arguments = command.format(tmp_path / "nowhere").split()
    script = (
        "import runpy, sys\n"
        "sys.argv[1:] = sys.argv[2:]\n"
        f"try: runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
        "finally: print('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, module, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (2, "False"), done.stdout + done.stderr
    assert "nowhere" in done.stderr
