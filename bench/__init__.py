"""Measurements of FastMTA as a whole, side by side with Postfix: see docs/bench.md."""
