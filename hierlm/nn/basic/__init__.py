"""What every architecture is made of: embedding, norm, feed-forward, block, head, first weights, dropout."""
