"""The DAG, its evaluation and its local runner."""

from configs import environment

environment.prepare()
