"""Makers of table files, a module a type."""
