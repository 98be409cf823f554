"""Matrices: factors, decompositions for all ranks, Gram matrices, Lewis weights.

Import from the submodules. `code_digest` follows imports, so a package that re-exported names
would make every method depend on every file in this folder.
"""
