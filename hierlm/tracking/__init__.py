"""Where a run's numbers go: metrics.jsonl is the truth, MLflow follows it."""
