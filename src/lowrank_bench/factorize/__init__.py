"""Decompose a checkpoint's weight once per method and parameters; all ranks come from it."""
