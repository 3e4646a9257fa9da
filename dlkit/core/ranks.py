"""What one tensor- and pipeline-parallel rank holds of a network: its stage of blocks, and its share of each layer.

As Megatron-LM divides (Shoeybi et al. 2019, arXiv 1909.08053; Korthikanti et al. 2022): attention by heads, key heads
replicated where there are fewer than ranks; feed-forward layers and experts by their hidden width; embedding and head
by words, rounded up; norms, positions, output biases, routers and all other layers whole on every rank. Stages are
blocks in a row, one more in the first ones where they do not divide; what precedes the blocks is on the first stage,
what follows them on the last, and a head that shares the weights of an embedding on another stage has a copy of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

from dlkit.core import sequence
from dlkit.core.errors import DlkitError
from dlkit.core.graph import Step, owners
from dlkit.core.matrices import Matrix, matrices
from dlkit.core.saved import blocks, key_copies


class Share(NamedTuple):
    """A rank's weights: how many, the matrices among them with the op of their layer, and its steps [start, end)."""

    params: int
    matrices: list[tuple[str, Matrix]]
    start: int
    end: int


def stages(steps: Sequence[Step], count: int) -> list[tuple[int, int]]:
    """The steps [start, end) of each pipeline stage."""
    if count == 1:
        return [(0, len(steps))]
    found = blocks(steps)
    if not found:
        raise DlkitError("--pp divides blocks: attention layers, or branches that join. This network has none")
    if count > len(found):
        raise DlkitError(f"--pp {count} is more stages than this network has blocks: {len(found)}")
    each, more = divmod(len(found), count)
    firsts = [found[i * each + min(i, more)][0] for i in range(1, count)]
    return list(zip([0, *firsts], [*firsts, len(steps)], strict=True))


def shares(steps: Sequence[Step], tensor: int, pipeline: int) -> list[Share]:
    """The weights of one tensor-parallel rank of each stage."""
    if tensor > 1:
        _check(steps, tensor)
    owned = owners(steps)
    return [_share(steps, start, end, tensor, owned) for start, end in stages(steps, pipeline)]


def _share(steps: Sequence[Step], start: int, end: int, tensor: int, owned: dict[int, int]) -> Share:
    mine = steps[start:end]
    found = [(step.op, matrix) for step in mine for matrix in rank_matrices(step, tensor)]
    params = sum(rank_params(step, tensor) for step in mine)
    lent = {owned[i]: i for i in range(start, end) if i in owned and not start <= owned[i] < end}
    for owner in lent:
        step = steps[owner]
        if isinstance(step.layer, sequence.Embed):
            copies = rank_matrices(step, tensor)
            found += [(step.op, matrix) for matrix in copies]
            params += sum(matrix.params for matrix in copies)
        elif isinstance(step.layer, sequence.Attention):
            params += _ceil((step.layer.relative or 0) * step.layer.heads, tensor)
    return Share(params, found, start, end)


def _check(steps: Sequence[Step], tensor: int) -> None:
    """Refuse a --tp that does not divide what it splits."""
    split = [step for step in steps if splits(step)]
    if not split:
        raise DlkitError("--tp splits attention and feed-forward layers: this network has none")
    for step in split:
        layer = step.layer
        if isinstance(layer, sequence.Attention):
            keys = layer.kv_heads or layer.heads
            if layer.heads % tensor:
                raise DlkitError(f"--tp {tensor} does not divide the {layer.heads} heads of {step.name}")
            if keys % tensor and tensor % keys:
                raise DlkitError(f"--tp {tensor} and the {keys} key heads of {step.name} do not divide each other")
        elif isinstance(layer, sequence.Mlp | sequence.GatedMlp | sequence.Moe) and layer.hidden % tensor:
            raise DlkitError(f"--tp {tensor} does not divide the hidden width {layer.hidden} of {step.name}")


def splits(step: Step) -> bool:
    """Whether tensor parallelism divides a layer, and not only a table of words."""
    return isinstance(step.layer, sequence.Attention | sequence.Mlp | sequence.GatedMlp | sequence.Moe)


def rank_matrices(step: Step, tensor: int) -> list[Matrix]:
    """The weight matrices of a layer as one tensor-parallel rank has them."""
    return [_split(matrix, step, tensor) for matrix in matrices(step)]


def _split(matrix: Matrix, step: Step, tensor: int) -> Matrix:
    name, inputs, outputs, times = matrix
    if name in ("q", "gate", "up", "head"):
        return Matrix(name, inputs, _ceil(outputs, tensor), times)
    if name in ("k", "v") and isinstance(step.layer, sequence.Attention):
        return Matrix(name, inputs, outputs * key_copies(step.layer, tensor) // tensor, times)
    if name in ("o", "down", "embed"):
        return Matrix(name, _ceil(inputs, tensor), outputs, times)
    return matrix


def rank_params(step: Step, tensor: int) -> int:
    """A layer's parameters on one tensor-parallel rank."""
    if tensor == 1:
        return step.params
    vectors = step.params - sum(matrix.params for matrix in matrices(step))
    whole, mine = _split_vectors(step, tensor)
    return sum(matrix.params for matrix in rank_matrices(step, tensor)) + vectors - whole + mine


def _split_vectors(step: Step, tensor: int) -> tuple[int, int]:
    """What of a layer's biases and tables is divided: in all, and on one rank."""
    layer = step.layer
    if isinstance(layer, sequence.Attention):
        query, keys = layer.widths(step.inputs[0])
        biases = (query + 2 * keys, query // tensor + 2 * keys * key_copies(layer, tensor) // tensor)
        table = 0 if layer.tie else (layer.relative or 0) * layer.heads
        return biases[0] * layer.bias + table, biases[1] * layer.bias + table // tensor
    if isinstance(layer, sequence.Mlp | sequence.GatedMlp):
        whole = layer.bias * layer.hidden * (1 + isinstance(layer, sequence.GatedMlp))
        return whole, whole // tensor
    if isinstance(layer, sequence.LmHead):
        return layer.bias * layer.vocab, layer.bias * _ceil(layer.vocab, tensor)
    return 0, 0


def _ceil(value: int, by: int) -> int:
    return -(-value // by)
