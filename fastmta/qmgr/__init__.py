"""Schedule: which message, to which destination, when."""
