"""The network that is trained where the user names none, written in the network language."""

from dlkit.data import Schema


def default_network(schema: Schema, outputs: int) -> tuple[str, str]:
    """(short name, text) for rows of `schema`: a perceptron on embedded columns, a convolutional net for C×H×W; for a
    column of text a bag of pieces of words, or a recurrent network where characters are read."""
    shape = schema.input_shape
    if schema.tokens:
        pieces = schema.tokens.vocabulary.kind == "bpe"
        return ("bag", _bag(schema.tokens.size, outputs)) if pieces else ("gru", _reader(schema.tokens.size, outputs))
    return ("cnn", _cnn(shape[1:], outputs)) if len(shape) == 3 else ("mlp", _mlp(schema, outputs))


def _bag(vocabulary: int, outputs: int) -> str:
    """fastText (Joulin et al. 2017) on pieces of words: on texts by the thousand as good as a linear model of words and
    n-grams, where what sees their order overfits."""
    return f"embed:{vocabulary},64 dropout:0.5 select:mean linear:{outputs}"


def _reader(vocabulary: int, outputs: int) -> str:
    """A recurrent network and the mean of its states: on texts by the thousand it learns what a transformer misses."""
    return f"embed:{vocabulary},64 dropout:0.1 gru:128 dropout:0.1 select:mean linear:{outputs}"


def _mlp(schema: Schema, outputs: int) -> str:
    widths = column_widths(schema)
    layout = "" if set(widths) == {1} else f",widths={'x'.join(map(str, widths))}"
    return f"columns:16,bins=64{layout} 2*(linear:256 relu dropout:0.2) linear:{outputs}"


def column_widths(schema: Schema) -> list[int]:
    """How the features of a row belong together: those of a category are one column, any other is its own."""
    widths: list[int] = []
    for encoder in schema.encoders:
        size = len(encoder.features)
        widths += [size] if encoder.kind == "categorical" else [1] * size
    return widths


def _cnn(size: tuple[int, ...], outputs: int) -> str:
    """Two 3×3 convolutions a stage, doubling the channels and halving the map until a side is under 8; then average."""
    width, side, stages = 32, min(size), []
    while True:
        stages.append(f"2*(conv:{width},k3,p1,bias=0 bn relu)")
        if side < 8 or width == 256:
            break
        stages.append("maxpool:k2")
        width, side = width * 2, side // 2
    return " ".join([*stages, "gap", "dropout:0.1", f"linear:{outputs}"])
