"""Set-up and the demo."""
