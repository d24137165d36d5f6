"""Pure data: envelopes, recipients, messages, outcomes."""
