"""What the workflow runs: each stage reads from the store, computes, and writes."""
