"""With the same weights, the networks that are built compute what transformers' and torchvision's modules compute."""

import json

import pytest
import torch

from dlkit.core import huggingface, zoo_sequence
from dlkit.core.spec import parse
from dlkit.nn.build import build

pytestmark = pytest.mark.filterwarnings("ignore")  # of libraries that are only oracles here

LAYERS, LENGTH, VOCAB = 3, 12, 50
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": LENGTH,
    "vocab_size": VOCAB,
}
WINDOW = {"sliding_window": 4}
DECODERS = {
    "llama": LLAMA | {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "mistral": LLAMA | WINDOW | {"model_type": "mistral", "head_dim": 16},
    "qwen2": LLAMA | WINDOW | {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 1},
    "qwen3": LLAMA | {"model_type": "qwen3", "head_dim": 16},
    "mixtral": LLAMA | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": LENGTH, "vocab_size": VOCAB}
BERT = {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"} | {"model_type": "bert", "type_vocab_size": 2}
T5 = {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": LAYERS, "num_heads": 4}
T5 |= {"vocab_size": VOCAB, "n_positions": 40}


@pytest.fixture(scope="module", autouse=True)
def operators():
    """A torchvision without its compiled operators imports once they are declared."""
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for op in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, op):
            declared.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    yield
    del declared


def pair(config, kind):
    """Transformers' model with weights that are all random, and ours for the same configuration."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    said = {key: value for key, value in config.items() if key != "model_type"}
    made = transformers.AutoConfig.for_model(config["model_type"], attn_implementation="eager", **said)
    theirs = getattr(transformers, kind)(made).eval().double()
    shaken(theirs)
    net = parse(huggingface.read(json.dumps(config), "config.json").text)
    return theirs, build(net.graph, net.input).eval().double()


def shaken(model):
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.3 + (p.dim() == 1) * 0.5)


def load(model, weights):
    """Every weight of ours is given, and nothing else."""
    assert set(weights) == set(model.state_dict())
    model.load_state_dict(weights)


def linear(state, ours, theirs):
    """A linear layer's or a norm's weight, and its bias where it has one."""
    parts = [part for part in ("weight", "bias") if f"{theirs}.{part}" in state]
    assert parts
    return {f"{ours}.{part}": state[f"{theirs}.{part}"] for part in parts}


def decoder_weights(state, experts):
    weights = linear(state, "embed1", "model.embed_tokens") | linear(state, "lmhead1", "lm_head")
    weights |= linear(state, f"rms{2 * LAYERS + 1}", "model.norm")
    for i in range(LAYERS):
        at = f"model.layers.{i}"
        names = {f"rms{2 * i + 1}": "input_layernorm", f"rms{2 * i + 2}": "post_attention_layernorm"}
        names |= {f"attn{i + 1}.{part}": f"self_attn.{part}_proj" for part in "qkv"}
        names[f"attn{i + 1}.out"] = "self_attn.o_proj"
        if f"{at}.self_attn.q_norm.weight" in state:
            names |= {f"attn{i + 1}.{part}_norm": f"self_attn.{part}_norm" for part in "qk"}
        if experts:
            names[f"moe{i + 1}.router"] = "mlp.gate"
            for e in range(experts):
                both, down = state[f"{at}.mlp.experts.gate_up_proj"][e], state[f"{at}.mlp.experts.down_proj"][e]
                parts = zip(("gate", "up", "down"), (*both.chunk(2), down), strict=True)
                weights |= {f"moe{i + 1}.experts.{e}.{part}.weight": value for part, value in parts}
        else:
            names |= {f"gmlp{i + 1}.{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")}
        for ours, theirs in names.items():
            weights |= linear(state, ours, f"{at}.{theirs}")
    return weights


@pytest.mark.parametrize("family", DECODERS)
def test_decoders(family):
    kind, _ = huggingface._FAMILIES[family]
    theirs, ours = pair(DECODERS[family], kind)
    experts = DECODERS[family].get("num_local_experts", 0)
    load(ours, decoder_weights(theirs.state_dict(), experts))
    if experts:  # their grouped product has no float64
        theirs, ours = theirs.float(), ours.float()
    x = torch.randint(VOCAB, (2, LENGTH))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x).logits, rtol=1e-4, atol=1e-4)


def test_gpt2():
    theirs, ours = pair(GPT2, "GPT2LMHeadModel")
    state = {k.removeprefix("transformer."): v for k, v in theirs.state_dict().items()}
    weights = linear(state, "embed1", "wte") | linear(state, "pos1", "wpe")
    weights |= linear(state, f"ln{2 * LAYERS + 1}", "ln_f")
    for i in range(LAYERS):
        weights |= linear(state, f"ln{2 * i + 1}", f"h.{i}.ln_1") | linear(state, f"ln{2 * i + 2}", f"h.{i}.ln_2")
        for part in ("weight", "bias"):
            turned = {k: v.T for k, v in state.items() if k.startswith(f"h.{i}.") and k.endswith(f"c_attn.{part}")}
            (fused,) = turned.values()
            weights |= {f"attn{i + 1}.{n}.{part}": value for n, value in zip("qkv", fused.chunk(3, 0), strict=True)}
            for ours_name, name in (
                ("attn{}.out", "attn.c_proj"),
                ("mlp{}.up", "mlp.c_fc"),
                ("mlp{}.down", "mlp.c_proj"),
            ):
                weights[f"{ours_name.format(i + 1)}.{part}"] = state[f"h.{i}.{name}.{part}"].T
    load(ours, weights)
    x = torch.randint(VOCAB, (2, LENGTH))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x).logits, rtol=1e-4, atol=1e-4)


def test_bert():
    theirs, ours = pair(BERT, "BertModel")
    state = theirs.state_dict()
    names = {"embed1": "word_embeddings", "pos1": "position_embeddings", "segments1": "token_type_embeddings"}
    names = {ours_name: f"embeddings.{name}" for ours_name, name in names.items()}
    names |= {"ln1": "embeddings.LayerNorm", "linear1": "pooler.dense"}
    for i in range(LAYERS):
        at = f"encoder.layer.{i}"
        for part, name in (("q", "query"), ("k", "key"), ("v", "value")):
            names[f"attn{i + 1}.{part}"] = f"{at}.attention.self.{name}"
        names |= {f"attn{i + 1}.out": f"{at}.attention.output.dense", f"mlp{i + 1}.up": f"{at}.intermediate.dense"}
        names |= {f"mlp{i + 1}.down": f"{at}.output.dense", f"ln{2 * i + 3}": f"{at}.output.LayerNorm"}
        names[f"ln{2 * i + 2}"] = f"{at}.attention.output.LayerNorm"
    load(ours, {key: value for name in names for key, value in linear(state, name, names[name]).items()})
    x = torch.randint(VOCAB, (2, LENGTH))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x).pooler_output, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gated", [False, True])
def test_t5(gated):
    theirs, ours = pair(T5 | ({"feed_forward_proj": "gated-gelu"} if gated else {}), "T5ForConditionalGeneration")
    state = theirs.state_dict()
    names, feed = {"embed1": "shared"}, "gmlp" if gated else "mlp"
    parts = {"gate": "wi_0", "up": "wi_1", "down": "wo"} if gated else {"up": "wi", "down": "wo"}

    def attention(ours_name, name):
        return {
            f"{ours_name}.{ours_part}": f"{name}.{part}"
            for ours_part, part in zip(("q", "k", "v", "out"), "qkvo", strict=True)
        }

    for i in range(LAYERS):
        at, own = f"encoder.block.{i}.layer", f"decoder.block.{i}.layer"
        names |= attention(f"attn{i + 1}", f"{at}.0.SelfAttention")
        names |= {f"rms{2 * i + 1}": f"{at}.0.layer_norm", f"rms{2 * i + 2}": f"{at}.1.layer_norm"}
        names |= {f"{feed}{i + 1}.{part}": f"{at}.1.DenseReluDense.{name}" for part, name in parts.items()}
        names |= attention(f"attn{LAYERS + i + 1}", f"{own}.0.SelfAttention")
        names |= attention(f"crossattn{i + 1}", f"{own}.1.EncDecAttention")
        names |= {f"{feed}{LAYERS + i + 1}.{part}": f"{own}.2.DenseReluDense.{name}" for part, name in parts.items()}
        names |= {f"rms{2 * LAYERS + 3 * i + k + 2}": f"{own}.{k}.layer_norm" for k in range(3)}
    names |= {f"rms{2 * LAYERS + 1}": "encoder.final_layer_norm", f"rms{5 * LAYERS + 2}": "decoder.final_layer_norm"}
    for number, side in ((1, "encoder"), (LAYERS + 1, "decoder")):
        names[f"attn{number}.bias"] = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias"
    load(ours, {key: value for name in names for key, value in linear(state, name, names[name]).items()})
    x, y = torch.randint(VOCAB, (2, 40)), torch.randint(VOCAB, (2, 40))
    with torch.no_grad():
        logits = theirs(input_ids=x, decoder_input_ids=y).logits
        torch.testing.assert_close(ours(torch.cat([x, y], 1)) * 32**-0.5, logits, rtol=1e-4, atol=1e-4)


def test_vit():
    vision = pytest.importorskip("torchvision", exc_type=ImportError)
    torch.manual_seed(0)
    size = {"num_layers": LAYERS, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 128}
    theirs = vision.models.VisionTransformer(image_size=224, patch_size=32, num_classes=7, **size).eval()
    shaken(theirs)
    net = parse("\n".join(zoo_sequence.vit(LAYERS, 32, 4, 32, classes=7, channels=3)))
    ours, state = build(net.graph, net.input).eval(), theirs.state_dict()
    weights = linear(state, "conv1", "conv_proj") | linear(state, f"ln{2 * LAYERS + 1}", "encoder.ln")
    weights |= linear(state, "linear1", "heads.head")
    weights |= {"cls1.weight": state["class_token"][0, 0], "pos1.weight": state["encoder.pos_embedding"][0]}
    for i in range(LAYERS):
        at = f"encoder.layers.encoder_layer_{i}"
        names = {f"ln{2 * i + 1}": "ln_1", f"ln{2 * i + 2}": "ln_2", f"attn{i + 1}.out": "self_attention.out_proj"}
        names |= {f"mlp{i + 1}.up": "mlp.0", f"mlp{i + 1}.down": "mlp.3"}
        for ours_name, name in names.items():
            weights |= linear(state, ours_name, f"{at}.{name}")
        for part in ("weight", "bias"):
            fused = state[f"{at}.self_attention.in_proj_{part}"].chunk(3)
            weights |= {f"attn{i + 1}.{n}.{part}": value for n, value in zip("qkv", fused, strict=True)}
    load(ours, weights)
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [224, 200])
def test_swin(size):
    """Also where the map is no multiple of the window: padded, shifted and masked."""
    vision = pytest.importorskip("torchvision", exc_type=ImportError)
    torch.manual_seed(0)
    depths = (2, 2)
    made = {"embed_dim": 12, "depths": list(depths), "num_heads": [3, 6], "window_size": [7, 7], "num_classes": 7}
    theirs = vision.models.SwinTransformer([4, 4], **made).eval()
    shaken(theirs)
    net = parse("\n".join(zoo_sequence.swin(depths, 12, 3, classes=7, channels=3)))
    ours = build(net.graph, (3, size, size)).eval()
    state = theirs.state_dict()
    weights = linear(state, "conv1", "features.0.0") | linear(state, "ln1", "features.0.2")
    weights |= linear(state, f"ln{2 * sum(depths) + 2}", "norm") | linear(state, "linear1", "head")
    for block in range(sum(depths)):
        stage, i = divmod(block, 2)
        at = f"features.{2 * stage + 1}.{i}"
        names = {f"ln{2 * block + 2}": "norm1", f"ln{2 * block + 3}": "norm2", f"mlp{block + 1}.up": "mlp.0"}
        names |= {f"swinattn{block + 1}.qkv": "attn.qkv", f"swinattn{block + 1}.out": "attn.proj"}
        names[f"mlp{block + 1}.down"] = "mlp.3"
        for ours_name, name in names.items():
            weights |= linear(state, ours_name, f"{at}.{name}")
        weights[f"swinattn{block + 1}.weight"] = state[f"{at}.attn.relative_position_bias_table"]
    weights |= {f"patchmerge1.{k}": state[f"features.2.{k}"] for k in ("norm.weight", "norm.bias", "reduction.weight")}
    load(ours, weights)
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-3, atol=1e-3)
