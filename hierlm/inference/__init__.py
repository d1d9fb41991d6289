"""A checkpoint in use without the training engine: evaluation and generation on one device, from any layout."""
