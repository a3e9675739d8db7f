"""Answers from published models."""

from configs import environment

environment.prepare()
