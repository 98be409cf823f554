"""Several subspaces for one table: projective clustering and fixed partitions."""
