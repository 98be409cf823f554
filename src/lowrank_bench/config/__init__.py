"""Configuration: composed once by Hydra, validated by pydantic, then plain frozen data."""

from lowrank_bench.config.compose import load_config
from lowrank_bench.config.schema import Config

__all__ = ["Config", "load_config"]
