"""What a figure shows, read back from its lines."""

import pandas as pd

from paper_figures.drawing import Curves


def numbers(figure, layout):
    """Panel, series, source, x and value of every point that is drawn; rows are named by their tick."""
    found = []
    for axes in figure.axes:
        ticks = axes.yaxis.get_major_formatter().format_ticks(axes.get_yticks())  # hidden labels too
        names = [label.replace("\n", "") for label in ticks]
        for line in axes.get_lines():
            if not line.get_gid():
                continue  # a level
            source, _, series = line.get_gid().partition(": ")
            told = {"panel": axes.get_title().replace("\n", ""), "series": series, "source": source}
            x, y = line.get_xdata(), line.get_ydata()
            if layout is Curves:
                found += [{**told, "x": a, "value": b} for a, b in zip(x, y, strict=True)]
            else:
                found += [{**told, "x": names[round(b)], "value": a} for a, b in zip(x, y, strict=True)]
    return pd.DataFrame(found)
