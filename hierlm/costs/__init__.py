"""What layers cost and where to cut the list by it: FLOPs, boundary bytes, pipeline stages."""
