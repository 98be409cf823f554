"""Compress a matrix, an embedding or a whole network: what `import lowrank_bench` offers."""
