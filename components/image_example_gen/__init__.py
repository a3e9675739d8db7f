"""Ingestion of labelled pictures."""
