"""Methods: every module of this folder is one, except those that `registry.SHARED` names."""

from lowrank_bench.methods.base import CodingMethod, MatrixMethod, Method, NetworkMethod
from lowrank_bench.methods.registry import (
    as_method,
    make_method,
    method_class,
    method_names,
    methods_for,
    network_method,
    register_folder,
    register_folders,
)

__all__ = [
    "CodingMethod",
    "MatrixMethod",
    "Method",
    "NetworkMethod",
    "as_method",
    "make_method",
    "method_class",
    "method_names",
    "methods_for",
    "network_method",
    "register_folder",
    "register_folders",
]
