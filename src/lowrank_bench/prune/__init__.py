"""Filter pruning: which channels belong together, what each is worth, and how to slice them out."""
