"""One file a paper: its figures and tables redrawn, its claims beside ours. Nothing here yet."""
