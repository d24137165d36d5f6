"""Accept: SMTP server sessions."""
