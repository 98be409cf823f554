"""The functions that `import lowrank_bench` offers: compress a matrix, an embedding, a network."""
