"""The supervisor: sockets, workers, signals; and the worker, the one place that wires the steps together."""
