"""Answers from pushed models."""
