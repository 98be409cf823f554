"""Low rank approximation in norms that outlying rows or entries do not dominate."""
