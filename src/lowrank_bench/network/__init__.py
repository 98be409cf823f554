"""Compress all layers of a network under one budget: low rank per layer, ranks chosen globally."""
