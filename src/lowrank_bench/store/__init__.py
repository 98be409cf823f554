"""The content-addressed store, the digests that name its artifacts, and where results come from."""
