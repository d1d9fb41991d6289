"""hierlm: train hierarchical and memory-augmented language models at scale."""
