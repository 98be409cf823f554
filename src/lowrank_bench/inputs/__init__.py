"""Texts and images: their networks, encodings, training and prediction."""
