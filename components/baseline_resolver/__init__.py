"""The model that a candidate is judged against."""
