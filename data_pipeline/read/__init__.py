"""From shards to batches: which row a global sample is, reading it in place, and the loader's threads."""
