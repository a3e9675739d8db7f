"""Cross-validation: honest numbers on few pictures, and labels that may be wrong."""
