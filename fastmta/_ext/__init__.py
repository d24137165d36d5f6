"""Compiled modules (sources in ext/)."""
