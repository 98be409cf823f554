"""From a configuration to the work: checkpoints, cells and jobs. Imports no torch."""
