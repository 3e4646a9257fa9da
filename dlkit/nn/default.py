"""The network that is trained where the user names none, written in the network language."""


def default_network(shape: tuple[int, ...], outputs: int) -> tuple[str, str]:
    """(short name, text) for one row's shape: a convolutional net for C×H×W, a multilayer perceptron otherwise."""
    return ("cnn", _cnn(shape[1:], outputs)) if len(shape) == 3 else ("mlp", _mlp(shape, outputs))


def _mlp(shape: tuple[int, ...], outputs: int) -> str:
    flatten = "" if len(shape) == 1 else "flatten "
    return f"{flatten}2*(linear:256 relu dropout:0.1) linear:{outputs}"


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
