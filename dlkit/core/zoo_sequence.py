"""Named transformers, written in the network language: published sizes, exact to the last parameter.

Every function returns lines of text. A configuration read from elsewhere is written by the same functions.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

Lines = list[str]


class Net(NamedTuple):
    """A named network: what it is, its options with their defaults, and who writes its shape and lines."""

    summary: str
    options: dict[str, int]
    write: Callable[..., Lines]


def word(op: str, *numbers: int, **arguments: Any) -> str:
    """A layer's word: arguments that are None are left out, flags are 1 or 0."""
    named = [f"{key}={_value(value)}" for key, value in arguments.items() if value is not None]
    return ":".join([op, ",".join([*map(str, numbers), *named])])


def _value(value: Any) -> str:
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    return str(value)


def _norm(op: str, eps: float | None, usual: float | None = None) -> str:
    return op if eps in (None, usual) else word(op, eps=eps)


def _repeat(times: int, *blocks: str) -> Lines:
    if times < 2:
        return list(blocks) * times
    return [f"{times}*(", *(f"  {block}" for block in blocks), ")"]


def _dropout(p: float) -> str:
    return f" dropout:{_value(p)}" if p else ""


# Decoders ---------------------------------------------------------------------------------------


def gpt(
    layers: int,
    width: int,
    heads: int,
    *,
    context: int,
    vocab: int,
    positions: int = 0,
    hidden: int | None = None,
    act: str = "gelu-tanh",
    eps: float = 1e-5,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    tie: bool = True,
) -> Lines:
    """GPT-2 and GPT-3: layer norm first, learned positions, a tied head. The table holds at least the context."""
    norm, drop = _norm("ln", eps, 1e-5), _dropout(dropout)
    attention = word("attn", heads, causal=True, dropout=attention_dropout or None)
    return [
        str(context),
        f"embed:{vocab},{width} pos:{max(positions, context)}{drop}",
        *_repeat(
            layers,
            f"sum({norm} {attention}{drop} | )",
            f"sum({norm} {word('mlp', hidden or 4 * width, act=act)}{drop} | )",
        ),
        norm,
        word("lmhead", vocab, tie=tie or None),
    ]


def llama(
    layers: int,
    width: int,
    heads: int,
    kv_heads: int,
    hidden: int,
    *,
    context: int,
    vocab: int,
    theta: float = 10000.0,
    eps: float = 1e-5,
    head_dim: int | None = None,
    window: int | None = None,
    full_layers: int = 0,
    act: str = "silu",
    bias: bool = False,
    out_bias: bool | None = None,
    mlp_bias: bool | None = None,
    qk_norm: bool | None = None,
    experts: int | None = None,
    top: int = 2,
    tie: bool | None = None,
    dropout: float | None = None,
) -> Lines:
    """Llama, Mistral, Mixtral and Qwen: RMS norm first, rotary positions, grouped queries, gated feed-forward.

    The first `full_layers` layers have no window.
    """
    norm, grouped = word("rms", eps=eps), None if kv_heads == heads else kv_heads
    attention = partial(
        word, "attn", heads,
        kv=grouped, dim=head_dim, causal=True, bias=bias, out_bias=out_bias,
        rope=True, theta=None if theta == 10000 else theta, qk_norm=qk_norm, dropout=dropout,
    )  # fmt: skip
    act_word = None if act == "silu" else act
    if experts:
        feed = word("moe", experts, hidden, top=top, act=act_word)
    else:
        feed = word("gmlp", hidden, act=act_word, bias=mlp_bias)
    full = min(full_layers, layers) if window else 0
    return [
        str(context),
        f"embed:{vocab},{width}",
        *_repeat(full, f"sum({norm} {attention()} | )", f"sum({norm} {feed} | )"),
        *_repeat(layers - full, f"sum({norm} {attention(window=window)} | )", f"sum({norm} {feed} | )"),
        norm,
        word("lmhead", vocab, tie=tie or None),
    ]


# Encoders ---------------------------------------------------------------------------------------


def bert(
    layers: int,
    width: int,
    heads: int,
    *,
    context: int,
    vocab: int,
    positions: int = 512,
    types: int = 2,
    hidden: int | None = None,
    act: str = "gelu",
    eps: float = 1e-12,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
) -> Lines:
    """BERT's encoder with its pooler: layer norm after each block."""
    norm, drop = _norm("ln", eps, 1e-5), _dropout(dropout)
    attention = word("attn", heads, dropout=attention_dropout or None)
    return [
        str(context),
        f"embed:{vocab},{width} pos:{max(positions, context)} segments:{types} {norm}{drop}",
        *_repeat(
            layers,
            f"sum({attention}{drop} | ) {norm}",
            f"sum({word('mlp', hidden or 4 * width, act=None if act == 'gelu' else act)}{drop} | ) {norm}",
        ),
        f"select:first linear:{width} tanh  # the pooler",
    ]


def masked(*, layers: int, width: int, heads: int, context: int, vocab: int, classes: int) -> Lines:
    """BERT's encoder in any size with the head that tells hidden tokens, or in its place one for `classes`.

    Without dropout where it tells hidden tokens: it learns them the better (ALBERT, Lan et al. 2020).
    """
    p = 0.1 if classes else 0.0
    encoder = partial(bert, layers, width, heads, context=context, vocab=vocab, positions=context)
    lines = encoder(dropout=p, attention_dropout=p)[:-1]
    if classes:
        return [*lines, f"select:mean dropout:0.1 linear:{classes}"]
    return [*lines, f"linear:{width} gelu ln:eps=1e-12 {word('lmhead', vocab, tie=True, bias=True)}"]


def t5(
    layers: int,
    width: int,
    heads: int,
    hidden: int,
    *,
    context: int,
    target: int,
    vocab: int,
    decoder_layers: int | None = None,
    head_dim: int = 64,
    buckets: int = 32,
    act: str = "relu",
    gated: bool = False,
    eps: float = 1e-6,
    dropout: float = 0.1,
    tie: bool = True,
) -> Lines:
    """T5's encoder and decoder in one sequence: `context` positions of the encoder, then `target` of the decoder.

    The decoder's blocks leave the first positions, the encoder's output, as they are, and attend over them.
    """
    norm, drop = word("rms", eps=eps), _dropout(dropout)
    common: dict[str, Any] = {"dim": head_dim, "bias": False, "scale": False, "dropout": dropout or None}
    table = partial(word, "attn", heads, relative=buckets, **common)
    cross = word("crossattn", heads, context, **common)
    feed = word("gmlp" if gated else "mlp", hidden, act=act, bias=False)
    memory, own = f"take:{context}", f"drop:{context}"

    def listen(**shared: bool) -> str:
        return f"sum({norm} {table(**shared)}{drop} | )"

    def decode(**shared: bool) -> str:
        return f"cat({memory} | {own} {listen(causal=True, **shared)}) over"

    return [
        str(context + target),
        f"feed = sum({norm} {feed}{drop} | )",
        f"over = cat({memory} | sum(cat({memory} | {own} {norm}) {cross}{drop} | {own}) feed)",
        f"embed:{vocab},{width}{drop}",
        "# the encoder, on the first positions",
        f"cat({memory} {listen()} feed",
        *_more(layers, f"{listen(tie=True)} feed"),
        f"  {norm}{drop} | {own})",
        "# the decoder, on the others",
        decode(),
        *_more(decoder_layers or layers, decode(tie=True)),
        f"{own} {norm}{drop} {word('lmhead', vocab, tie=tie or None)}",
    ]


def _more(layers: int, block: str) -> Lines:
    return [f"  {layers - 1}*({block})"] if layers > 1 else []


# Vision -----------------------------------------------------------------------------------------


def vit(layers: int, width: int, heads: int, patch: int, *, classes: int, channels: int, size: int = 224) -> Lines:
    """A vision transformer: patches, a class token, learned positions, layer norm first."""
    norm = word("ln", eps=1e-6)
    return [
        f"{channels}x{size}x{size}",
        f"conv:{width},k{patch},s{patch} tokens cls pos",
        *_repeat(layers, f"sum({norm} attn:{heads} | )", f"sum({norm} mlp:{4 * width} | )"),
        f"{norm} select:first linear:{classes}",
    ]


def swin(
    depths: tuple[int, ...],
    width: int,
    heads: int,
    *,
    classes: int,
    channels: int,
    patch: int = 4,
    window: int = 7,
    size: int = 224,
) -> Lines:
    """A shifted-window transformer: windows of 7×7, every second block shifted; each stage halves the map."""
    lines = [f"{channels}x{size}x{size}", f"conv:{width},k{patch},s{patch} channelslast ln:1"]
    for stage, depth in enumerate(depths):
        attention = partial(word, "swinattn", heads << stage, window=None if window == 7 else window)
        feed = f"sum(ln:1 mlp:{4 * width << stage} | )"
        pair = f"sum(ln:1 {attention()} | ) {feed}", f"sum(ln:1 {attention(shift=True)} | ) {feed}"
        lines += [f"# stage {stage + 1}", *(["patchmerge"] if stage else []), *_repeat(depth // 2, *pair)]
        lines += [pair[0]] if depth % 2 else []
    return [*lines, f"# the classifier\nln:1 channelsfirst gap linear:{classes}"]


def any_gpt(*, layers: int, width: int, heads: int, context: int, vocab: int) -> Lines:
    """GPT-2 in any size, with as many positions as tokens."""
    return gpt(layers, width, heads, context=context, vocab=vocab, positions=context)


def any_swin(*, stages: int, depth: int, width: int, heads: int, **more: int) -> Lines:
    """Swin in any size: stages of the same depth."""
    return swin((depth,) * stages, width, heads, **more)


# What has a name --------------------------------------------------------------------------------

_GPT2 = {"gpt2": (12, 768, 12), "gpt2-medium": (24, 1024, 16), "gpt2-large": (36, 1280, 20), "gpt2-xl": (48, 1600, 25)}
# Table 2.1 prints 24 heads of 128 for 1.3B and a width of 5140 for 13B; the parameters of table D.1 are those of:
_GPT3 = {
    "gpt3-125m": (12, 768, 12),
    "gpt3-350m": (24, 1024, 16),
    "gpt3-760m": (24, 1536, 16),
    "gpt3-1.3b": (24, 2048, 16),
    "gpt3-2.7b": (32, 2560, 32),
    "gpt3-6.7b": (32, 4096, 32),
    "gpt3-13b": (40, 5120, 40),
    "gpt3-175b": (96, 12288, 96),
}
_BERT = {"bert-base": (12, 768, 12), "bert-large": (24, 1024, 16)}
_LLAMA = {  # layers, width, heads, key and value heads, hidden; vocabulary, context, theta
    "llama-2-7b": (32, 4096, 32, 32, 11008, 32000, 4096, 10000.0),
    "llama-2-13b": (40, 5120, 40, 40, 13824, 32000, 4096, 10000.0),
    "llama-2-70b": (80, 8192, 64, 8, 28672, 32000, 4096, 10000.0),
    "llama-3-8b": (32, 4096, 32, 8, 14336, 128256, 8192, 500000.0),
    "llama-3-70b": (80, 8192, 64, 8, 28672, 128256, 8192, 500000.0),
    "llama-3.1-8b": (32, 4096, 32, 8, 14336, 128256, 131072, 500000.0),
    "llama-3.1-70b": (80, 8192, 64, 8, 28672, 128256, 131072, 500000.0),
    "llama-3.1-405b": (126, 16384, 128, 8, 53248, 128256, 131072, 500000.0),
}
_T5 = {  # layers, width, heads, hidden, width of a head
    "t5-small": (6, 512, 8, 2048, 64),
    "t5-base": (12, 768, 12, 3072, 64),
    "t5-large": (24, 1024, 16, 4096, 64),
    "t5-3b": (24, 1024, 32, 16384, 128),
    "t5-11b": (24, 1024, 128, 65536, 128),
}
_VIT = {
    "vit_b_16": (12, 768, 12, 16),
    "vit_b_32": (12, 768, 12, 32),
    "vit_l_16": (24, 1024, 16, 16),
    "vit_l_32": (24, 1024, 16, 32),
}
_SWIN = {"swin_t": ((2, 2, 6, 2), 96, 3), "swin_s": ((2, 2, 18, 2), 96, 3), "swin_b": ((2, 2, 18, 2), 128, 4)}
_IMAGENET = {"classes": 1000, "channels": 3}


def _tokens(context: int, vocab: int) -> dict[str, int]:
    return {"context": context, "vocab": vocab}


def _decoders() -> dict[str, Net]:
    nets = {}
    for name, size in _GPT2.items():
        nets[name] = Net("GPT-2, Radford et al. 2019", _tokens(1024, 50257), partial(gpt, *size, positions=1024))
    for name, size in _GPT3.items():
        summary = "GPT-3 with dense attention, Brown et al. 2020"
        nets[name] = Net(summary, _tokens(2048, 50257), partial(gpt, *size, positions=2048))
    for name, (*sizes, vocab, context, theta) in _LLAMA.items():
        summary = f"Llama {name.split('-')[1]}, {'Touvron et al. 2023' if '-2-' in name else 'Meta 2024'}"
        nets[name] = Net(summary, _tokens(context, vocab), partial(llama, *sizes, theta=theta))
    mistral = partial(llama, 32, 4096, 32, 8, 14336)
    nets["mistral-7b"] = Net(
        "Mistral 7B v0.1, Jiang et al. 2023: a window of 4096", _tokens(32768, 32000), partial(mistral, window=4096)
    )
    nets["mixtral-8x7b"] = Net(
        "Mixtral 8x7B, Jiang et al. 2024: 2 of 8 experts", _tokens(32768, 32000), partial(mistral, experts=8, theta=1e6)
    )
    return nets


def _of_any_size() -> dict[str, Net]:
    """Small as built: for a text, for images of 32×32."""

    def size(layers: int, heads: int, **more: int) -> dict[str, int]:
        return {"layers": layers, "width": 128, "heads": heads, **more}

    images = {"classes": 10, "channels": 3, "size": 32}
    windows = {"stages": 2, "depth": 2, "width": 64, "heads": 2, "patch": 2, "window": 4}
    return {
        "gpt": Net("GPT-2 of any size", _tokens(128, 65) | size(4, 4), any_gpt),
        "bert": Net(
            "BERT of any size, a masked language model; as built BERT-tiny, Turc et al. 2019",
            _tokens(128, 30522) | size(2, 2, classes=0),
            masked,
        ),
        "vit": Net("ViT of any size", images | size(6, 4, patch=4), vit),
        "swin": Net("Swin of any size", images | windows, any_swin),
    }


def _others() -> dict[str, Net]:
    nets = _of_any_size()
    for name, size in _BERT.items():
        nets[name] = Net("BERT with its pooler, Devlin et al. 2018", _tokens(512, 30522), partial(bert, *size))
    for name, (*sizes, head) in _T5.items():
        summary, options = "T5 v1.0, encoder and decoder, Raffel et al. 2019", _tokens(512, 32128) | {"target": 512}
        nets[name] = Net(summary, options, partial(t5, *sizes, head_dim=head))
    for name, shape in _VIT.items():
        nets[name] = Net("ViT, Dosovitskiy et al. 2020", _IMAGENET, partial(vit, *shape))
    for name, (depths, width, heads) in _SWIN.items():
        nets[name] = Net("Swin, Liu et al. 2021", _IMAGENET, partial(swin, depths, width, heads))
    return nets


NETS = _decoders() | _others()
