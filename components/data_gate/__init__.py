"""The gate for data: nothing is trained on what it refuses."""
