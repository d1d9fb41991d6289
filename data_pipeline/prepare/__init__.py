"""From text or images to shards: sources, documents, splits, encoding, writing; resumable at every shard.

A new format of documents is a branch in documents.py; a new compression one in sources.py.
"""
