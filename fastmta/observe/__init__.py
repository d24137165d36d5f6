"""Tell: log lines, counters."""
