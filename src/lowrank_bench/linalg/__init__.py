"""Matrices: factors, decompositions that serve every rank, Gram matrices, Lewis weights.

Import from the submodules: `code_digest` follows those, and a package that gathers names would
tie every method to every file here.
"""
