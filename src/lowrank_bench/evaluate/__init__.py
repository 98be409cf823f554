"""Predict with compressed networks and keep the raw predictions; metrics come later."""
