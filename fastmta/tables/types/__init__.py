"""The types of lookup tables, one module each (or for a family)."""
