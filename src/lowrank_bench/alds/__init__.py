"""ALDS: channel groups of every layer, an SVD of each, chosen under one budget."""
