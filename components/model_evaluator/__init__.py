"""The gate for models: TFX's Evaluator on the served graph, every bound judged in one place."""
