"""How far from the best of its rank an approximation can be."""
