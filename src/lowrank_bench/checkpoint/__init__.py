"""Checkpoints: a network fine-tuned on one task, or a published one whose labels are checked."""
