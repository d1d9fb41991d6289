"""Analytic costs of a run before it starts: FLOPs, stage cut, memory, communication. Nothing real is allocated."""
