"""The DAG, its evaluation and its local runner."""
