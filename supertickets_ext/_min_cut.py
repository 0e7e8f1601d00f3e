"""Splits a graph in two at the least cost."""

from __future__ import annotations

from collections import deque

FOREVER = 1 << 60


class MinCut:
    """Nodes to be put on side A or side B, and what it costs where two are parted.

    By Dinic's maximum flow; costs are whole numbers, so that the search ends.
    """

    def __init__(self) -> None:
        self._edges: list[list[int]] = []  # [target, capacity left], its reverse at index ^ 1
        self._from: list[list[int]] = []
        self._a, self._b = self.node(), self.node()

    def node(self, on_a: int = 0, on_b: int = 0) -> int:
        """Add a node with what it costs on either side.

        Returns:
            Its number.
        """
        self._from.append([])
        number = len(self._from) - 1
        if on_a:
            self._edge(number, self._b, on_a)
        if on_b:
            self._edge(self._a, number, on_b)
        return number

    def part(self, on_a: int, on_b: int, cost: int) -> None:
        """Let it cost ``cost`` if the first node is on side A and the second on side B."""
        self._edge(on_a, on_b, cost)

    def sides(self) -> list[bool]:
        """Solve; True for nodes on side A."""
        while True:
            level = self._levels()
            if level[self._b] < 0:
                return [depth >= 0 for depth in level]
            at = [0] * len(self._from)
            while self._push(level, at):
                pass

    def _edge(self, start: int, end: int, capacity: int) -> None:
        self._from[start].append(len(self._edges))
        self._edges.append([end, capacity])
        self._from[end].append(len(self._edges))
        self._edges.append([start, 0])

    def _levels(self) -> list[int]:
        level = [-1] * len(self._from)
        level[self._a] = 0
        queue = deque([self._a])
        while queue:
            here = queue.popleft()
            for edge in self._from[here]:
                target, left = self._edges[edge]
                if left > 0 and level[target] < 0:
                    level[target] = level[here] + 1
                    queue.append(target)
        return level

    def _push(self, level: list[int], at: list[int]) -> bool:
        """Send flow along one shortest path; False if there is none."""
        path: list[int] = []
        here = self._a
        while here != self._b:
            while at[here] < len(self._from[here]):
                edge = self._from[here][at[here]]
                target, left = self._edges[edge]
                if left > 0 and level[target] == level[here] + 1:
                    break
                at[here] += 1
            else:  # a dead end: step back and pass it by
                if not path:
                    return False
                edge = path.pop()
                here = self._edges[edge ^ 1][0]
                at[here] += 1
                continue
            path.append(edge)
            here = target
        flow = min(self._edges[edge][1] for edge in path)
        for edge in path:
            self._edges[edge][1] -= flow
            self._edges[edge ^ 1][1] += flow
        return True
