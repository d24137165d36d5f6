"""Processes: the master, its workers, and the one place that wires the steps together."""
