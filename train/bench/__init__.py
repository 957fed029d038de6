"""Benchmarks of the training step, in a process that is settled as a run is."""

from pipeline.command.console import settle_on_cpu

settle_on_cpu()
