"""Rows of text to batches of token ids, in the same way for training and for evaluation."""
