"""Studies: what a user describes becomes cells, and their results."""
