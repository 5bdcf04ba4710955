"""Healthy subjects to plant faults in, as the benchmark uses them: no probe may raise an alarm on any of them."""

from experiments.benchmarks.subjects import *  # noqa: F403
