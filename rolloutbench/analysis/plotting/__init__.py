"""Figures: one function each, from a tidy DataFrame to a matplotlib Figure."""
