"""A generated suite in GLUE's schema: words with planted meaning, nine tasks, four networks."""
