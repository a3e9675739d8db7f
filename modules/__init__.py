"""What runs inside Transform and Trainer."""

from configs import environment

environment.prepare()
