"""Low rank in norms that far-away rows or entries do not rule."""
