"""Two things that pyproject.toml cannot say; everything else about the project stands there."""

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel


class RefusedWheel(bdist_wheel):
    """A copy in site-packages would take the names kernels, eval, model, ... from other packages there."""

    def run(self) -> None:
        raise SystemExit(
            "error: Fairweather is an application and runs from its checkout. Install it with scripts/setup.sh, or "
            "into an environment of its own with: pip install -c constraints.txt -e ."
        )


# An editable install is a path to the checkout. With setuptools' own finder a folder called fairweather in the working
# directory, such as the checkout beside it, would come first, and type checkers would find nothing.
setup(cmdclass={"bdist_wheel": RefusedWheel}, options={"editable_wheel": {"mode": "compat"}})
