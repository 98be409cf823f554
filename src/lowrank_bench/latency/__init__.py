"""Seconds: clocks, what layers take at other sizes, and budgets of time that are kept."""
