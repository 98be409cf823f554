"""Ellipsoids for the ℓp ball: Lewis weights, and the ellipsoid method as published."""
