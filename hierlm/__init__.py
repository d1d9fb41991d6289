"""hierlm: train hierarchical and memory-augmented language models at scale.

Nothing of it tells anybody but the tracker of a config that it was used. MLflow, which DeepSpeed imports too, counts
its users unless it was told not to before it is imported.
"""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
