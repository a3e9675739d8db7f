"""Stands in for `components.serving_check.probe`: finds fault with the GPUs that it sees."""

import json
import os

print(json.dumps([os.environ.get("CUDA_VISIBLE_DEVICES", "all")]))
