"""`python -m eval.report RUN... --out report.html`."""

from eval.report.page import main
from pipeline.command.console import run_entry

if __name__ == "__main__":
    run_entry(main)
