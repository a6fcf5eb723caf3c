"""How does one hash stand for many? A Merkle tree over them, as in Certificate Transparency.

Source: RFC 6962, section 2.1: leaves and nodes are hashed with different prefixes, so that no
node can be taken for a leaf. The tree is built while leaves come in, in memory that grows
with the logarithm of their number.
"""

from hashlib import sha256

_LEAF = b"\x00"
_NODE = b"\x01"


class MerkleTree:
    """The root of the leaves that were added so far."""

    def __init__(self) -> None:
        self.size = 0
        """How many leaves there are."""
        # Roots of complete subtrees, largest first: one for each bit of the size.
        self._roots: list[bytes] = []

    def add(self, leaf: bytes) -> None:
        """Put *leaf* behind all others."""
        node = sha256(_LEAF + leaf).digest()
        size = self.size
        while size & 1:
            node = _joined(self._roots.pop(), node)
            size >>= 1
        self._roots.append(node)
        self.size += 1

    def root(self) -> bytes:
        """Return the hash that stands for all leaves; that of nothing if there are none."""
        if not self._roots:
            return sha256(b"").digest()
        node = self._roots[-1]
        for left in reversed(self._roots[:-1]):
            node = _joined(left, node)
        return node


def _joined(left: bytes, right: bytes) -> bytes:
    return sha256(_NODE + left + right).digest()
