"""Keep: the log, its index, recovery and reclaiming."""
