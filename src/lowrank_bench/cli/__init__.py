"""The command line `lowrank`, over the same functions as the library and the workflow."""

from lowrank_bench.cli.main import main

__all__ = ["main"]
