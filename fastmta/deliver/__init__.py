"""Deliver: smtp, lmtp, error, retry, discard."""
