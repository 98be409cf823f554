"""Certificates: how far an approximation can be from the best of its rank."""
