"""Report: delivery status notifications."""
