"""The schema of labelled pictures."""
