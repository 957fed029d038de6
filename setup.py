"""Only to refuse one thing; everything about the project stands in pyproject.toml."""

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel


class RefusedWheel(bdist_wheel):
    """A copy in site-packages would take the names kernels, eval, model, ... from other packages there."""

    def run(self) -> None:
        raise SystemExit(
            "error: Fairweather is an application and runs from its checkout. Install it with scripts/setup.sh, or "
            "into an environment of its own with: pip install -c constraints.txt -e ."
        )


setup(cmdclass={"bdist_wheel": RefusedWheel})
