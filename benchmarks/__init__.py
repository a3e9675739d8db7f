"""What is timed: a ratio in one run, against what a user would do instead."""

from configs import environment

environment.prepare()
