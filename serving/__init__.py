"""Answers from pushed models."""

from configs import environment

environment.prepare()
