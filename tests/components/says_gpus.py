"""Says which GPUs a fresh process sees."""

import json
import os

print(json.dumps({"gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "all")}))
