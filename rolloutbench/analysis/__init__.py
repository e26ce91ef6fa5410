"""From recorded numbers to metrics, intervals, tables and figures."""
