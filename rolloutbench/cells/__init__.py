"""Cells: what is measured, where it runs and where it is kept."""
