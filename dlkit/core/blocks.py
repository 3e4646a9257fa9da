"""A long network in few rows: the layers of a graph grouped into blocks, alike neighbours counted together."""

from typing import NamedTuple

from dlkit.core.graph import SOURCE, Graph, Step, dominators
from dlkit.core.layers import Join, Layer

LONG = 40  # layers, beyond which a terminal shows blocks


class Block(NamedTuple):
    """Layers shown as one row: indices in order of the graph, and how many alike blocks in a row they make."""

    layers: tuple[int, ...]
    times: int = 1


def blocks(graph: Graph, steps: list[Step], depth: int) -> list[Block]:
    """The graph's layers in groups. At depth 1 a join and its branches are one block; each level more opens joins once.

    A layer without MACs (a norm, an activation, pooling) goes with the one before it.
    """
    return _Outline(graph, steps).chain(SOURCE, graph.output, depth)


class _Outline:
    def __init__(self, graph: Graph, steps: list[Step]) -> None:
        self.graph = graph
        self.steps = steps
        self.above = dominators(graph)

    def chain(self, start: int, end: int, depth: int) -> list[Block]:
        """The blocks after node `start` up to and with `end`."""
        done: list[Block] = []
        found: list[Block] = []  # from the end backwards: what may count together, no opened join between
        group: list[int] = []  # what waits for the layer that it goes with
        while end > start:
            layer = self.graph.nodes[end].layer
            fork = self.above[end]
            group[:0] = [end]
            if isinstance(layer, Join):
                if depth > 1:
                    done = [*self.branches(end, depth - 1), Block(tuple(group)), *self.merged(found[::-1]), *done]
                    found = []
                else:
                    found.append(Block((*self.inside(fork, end), *group)))
                group = []
            elif self.steps[end].macs or fork == start:
                found.append(Block(tuple(group)))
                group = []
            end = fork
        return self.merged(found[::-1]) + done

    def branches(self, join: int, depth: int) -> list[Block]:
        fork = self.above[join]
        return [block for branch in self.graph.nodes[join].inputs for block in self.chain(fork, branch, depth)]

    def inside(self, fork: int, join: int) -> list[int]:
        """Every node between a fork and the join that ends it."""
        found: set[int] = set()
        waiting = list(self.graph.nodes[join].inputs)
        while waiting:
            node = waiting.pop()
            if node > fork and node not in found:
                found.add(node)
                waiting += self.graph.nodes[node].inputs
        return sorted(found)

    def merged(self, found: list[Block]) -> list[Block]:
        """Neighbours of the same layers as one block; the output of each is the input of the next."""
        together: list[Block] = []
        for block in found:
            if together and self.alike(together[-1], block):
                last = together.pop()
                together.append(Block(last.layers + block.layers, last.times + 1))
            else:
                together.append(block)
        return together

    def alike(self, before: Block, block: Block) -> bool:
        length = len(block.layers)
        first = before.layers[:length]
        return len(before.layers) == before.times * length and self.words(first) == self.words(block.layers)

    def words(self, indices: tuple[int, ...]) -> list[Layer]:
        return [self.graph.nodes[i].layer for i in indices]


def title(block: Block, steps: list[Step]) -> tuple[str, str]:
    """A block's name and what it consists of: ("sum2…relu10", "2 × sum (9 layers) relu")."""
    one = block.layers[: len(block.layers) // block.times]
    head = max((i for i in one if isinstance(steps[i].layer, Join)), default=one[0])
    shown = [i for i in one if i >= head]
    words = [steps[i].text for i in shown]
    if len(one) > len(shown):
        words[0] += f" ({len(one) - len(shown) + 1} layers)"
    first, last = steps[head].name, steps[block.layers[-1]].name
    times = f"{block.times} × " if block.times > 1 else ""
    return first if first == last else f"{first}…{last}", times + " ".join(words)
