"""Kinds of input: texts and images, their networks, encodings and training."""
