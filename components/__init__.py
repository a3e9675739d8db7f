"""TFX components of our own: a spec in component.py, what it does in executor.py."""

from configs import environment

environment.prepare()
