"""Sockets, DNS and TLS below the protocols."""
