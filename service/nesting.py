"""How deep a JSON body nests, counted while it arrives: before a parser works on it, and at the speed of its bytes."""

from __future__ import annotations

from itertools import accumulate

# Nothing but quotes and brackets decides the depth, and both kinds of brackets count alike.
_STRUCTURE = bytes.maketrans(b"[{]}", b"(())")
_REST = bytes(byte for byte in range(256) if byte not in b'"[{]}')
_SIGNS = bytes.maketrans(b"()", b"\x01\xff")  # +1 and -1 as signed bytes
_ROUNDS = 2


class Nesting:
    """Feed it the chunks of a body: says whether brackets outside strings ever nest deeper than ``most``.

    16 MiB of selectors take 0.03 to 0.1 s on one slow core; the worst that can be made up takes as long as its parser.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.depth = 0  # at the end of what was fed
        self._in_string = False
        self._pending = b""  # a backslash whose next byte is in the next chunk

    def exceeded_by(self, chunk: bytes) -> bool:
        """Takes the next chunk, of any size. What is no JSON may be judged either way: a parser refuses it afterwards."""
        brackets = self._outside_strings(self._pending + chunk if self._pending else chunk)
        closed = len(brackets.translate(None, b"("))
        start, self.depth = self.depth, max(0, self.depth + len(brackets) - 2 * closed)
        if self.depth > self.most:
            return True
        # Each removal of the innermost pairs of a balanced text takes one level off; few texts have much left then.
        left = b"(" * start + brackets + b")" * self.depth
        for rounds in range(_ROUNDS):
            if not left:
                return rounds > self.most
            left = left.replace(b"()", b"")
        return _ROUNDS + max(accumulate(memoryview(left.translate(_SIGNS)).cast("b")), default=0) > self.most

    def _outside_strings(self, chunk: bytes) -> bytes:
        self._pending = b""
        if b"\\" in chunk:
            chunk = chunk.replace(b"\\\\", b"")
            if chunk.endswith(b"\\"):
                chunk, self._pending = chunk[:-1], b"\\"
            chunk = chunk.replace(b'\\"', b"")
        structure = chunk.translate(_STRUCTURE, _REST)
        if self._in_string:
            structure = b'"' + structure
        structure = structure.replace(b'""', b"")  # strings without brackets; the pairing of other quotes stays
        self._in_string = structure.count(b'"') % 2 == 1
        if b'"' not in structure:
            return structure
        return b"".join(structure.split(b'"')[::2])
