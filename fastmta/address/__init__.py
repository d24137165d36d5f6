"""Addresses: parsing, quoting, classes, resolution to transport and next hop."""
