"""Whole networks: their layers, statistics on calibration data, budgets and sizes."""
