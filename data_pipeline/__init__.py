"""Text -> tokenizer -> shards -> batches. Knows nothing of models or of hierlm."""
