"""Control socket of a worker, and what asks it."""
