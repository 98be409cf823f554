"""All kinds of codes; `restore` knows a kind once its module is imported."""

from lowrank_bench.linalg.coding.coded import Coded
from lowrank_bench.linalg.coding.half import HalfRows
from lowrank_bench.linalg.coding.product import ProductCodes
from lowrank_bench.linalg.coding.rounding import RoundedRows
from lowrank_bench.linalg.coding.transform import TransformCodes

CODES: tuple[type[Coded], ...] = (HalfRows, ProductCodes, RoundedRows, TransformCodes)
