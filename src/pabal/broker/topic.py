"""Topic patterns: words between dots, `*` for one word, `#` for any number of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


def words_of(key: str) -> list[str]:
    """The words of a routing key or pattern; the empty key has none."""
    return key.split(".") if key else []


class _Node(Generic[T]):
    __slots__ = ("ends", "next")

    def __init__(self) -> None:
        self.next: dict[str, _Node[T]] = {}
        self.ends: dict[T, int] = {}


class TopicTree(Generic[T]):
    """Which destinations' patterns match a key. The time is linear in the key's words, whatever the patterns."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, pattern: str, destination: T) -> None:
        node = self._root
        for word in words_of(pattern):
            node = node.next.setdefault(word, _Node())
        node.ends[destination] = node.ends.get(destination, 0) + 1

    def remove(self, pattern: str, destination: T) -> None:
        path = [self._root]
        words = words_of(pattern)
        for word in words:
            path.append(path[-1].next[word])
        ends = path[-1].ends
        ends[destination] -= 1
        if not ends[destination]:
            del ends[destination]
        for depth in range(len(words), 0, -1):
            if path[depth].ends or path[depth].next:
                break
            del path[depth - 1].next[words[depth - 1]]

    def match(self, key: str) -> Iterator[T]:
        """Each destination with a pattern that matches, possibly more than once."""
        nodes = _with_empty_hashes([(self._root, False)])
        for word in words_of(key):
            following: list[tuple[_Node[T], bool]] = []
            for node, is_hash in nodes:
                if is_hash:
                    following.append((node, True))
                steps = (word, "*") if word not in ("*", "#") else ("*",)
                following += [(node.next[step], False) for step in steps if step in node.next]
            nodes = _with_empty_hashes(following)
        for node, _ in nodes:
            yield from node.ends


def _with_empty_hashes(nodes: list[tuple[_Node[T], bool]]) -> list[tuple[_Node[T], bool]]:
    """The nodes, and those that `#` leads to without using up a word. Each once."""
    seen: dict[int, tuple[_Node[T], bool]] = {}
    for node, is_hash in nodes:
        current: _Node[T] | None = node
        while current is not None and (id(current) not in seen or (is_hash and not seen[id(current)][1])):
            seen[id(current)] = (current, is_hash)
            current, is_hash = current.next.get("#"), True
    return list(seen.values())
