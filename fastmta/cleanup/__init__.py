"""Rewrite: envelope and headers into their final form, before the queue."""
