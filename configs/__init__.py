"""The typed configuration and the ready-made ones."""
