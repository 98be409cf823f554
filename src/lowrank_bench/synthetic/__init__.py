"""A generated suite in the schema of GLUE: planted meanings, nine tasks, four networks."""
