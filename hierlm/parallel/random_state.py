"""Random draws of a step: seeded by what they belong to, so that nothing has to be saved and resuming is exact."""

import hashlib


def keyed_seed(*key: object) -> int:
    """A 63-bit seed that any change of the key changes."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
