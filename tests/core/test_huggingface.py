"""Hugging Face configurations: parameters against transformers' own models, and what is refused."""

import json

import pytest

from dlkit.core import huggingface
from dlkit.core.errors import DlkitError
from dlkit.core.graph import totals, walk
from dlkit.core.spec import parse

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "vocab_size": 100,
}
GROUPED = LLAMA | {"num_key_value_heads": 2}
GPT2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 32, "vocab_size": 100}
BERT = {
    "model_type": "bert",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "vocab_size": 100,
    "type_vocab_size": 2,
}
T5 = {
    "model_type": "t5",
    "d_model": 64,
    "d_kv": 8,
    "d_ff": 96,
    "num_layers": 3,
    "num_heads": 4,
    "vocab_size": 100,
    "tie_word_embeddings": True,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "model_type": "mixtral"}
QWEN_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}

CONFIGS = {
    "gpt2": GPT2,
    "gpt2 with its own hidden width, untied": GPT2 | {"n_inner": 96, "tie_word_embeddings": False},
    "llama": LLAMA,
    "llama with grouped queries, tied": GROUPED | {"tie_word_embeddings": True},
    "llama with biases and wide heads": GROUPED | {"attention_bias": True, "mlp_bias": True, "head_dim": 32},
    "mistral": GROUPED | {"model_type": "mistral", "sliding_window": 8},
    "mistral without a window": GROUPED | {"model_type": "mistral", "sliding_window": None, "head_dim": 24},
    "mixtral": GROUPED | EXPERTS,
    "qwen2": GROUPED | {"model_type": "qwen2"},
    "qwen2 with a window, tied": GROUPED
    | {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}
    | {"tie_word_embeddings": True},
    "qwen3": GROUPED | {"model_type": "qwen3"},
    "qwen3 with biases": GROUPED | {"model_type": "qwen3", "attention_bias": True, "head_dim": 16},
    "qwen3_moe without a width of heads": GROUPED | QWEN_EXPERTS | {"model_type": "qwen3_moe"},
    "mistral with the usual window": GROUPED | {"model_type": "mistral", "max_position_embeddings": 5000},
    "qwen3_moe": GROUPED | QWEN_EXPERTS | {"model_type": "qwen3_moe", "head_dim": 16},
    "bert": BERT,
    "t5": T5,
    "t5, gated, with fewer layers in the decoder": T5 | {"feed_forward_proj": "gated-gelu", "num_decoder_layers": 2},
}


def network(config, name="config.json"):
    return parse(huggingface.read(json.dumps(config), name).text)


def whole(config):
    net = network(config)
    return totals(walk(net.graph, net.input))


@pytest.fixture(scope="module")
def transformers():
    torch = pytest.importorskip("torch")
    declared = torch.library.Library("torchvision", "FRAGMENT")  # it imports torchvision, which may have no operators
    for op in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, op):
            declared.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    yield pytest.importorskip("transformers")
    del declared


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.filterwarnings("ignore")  # of a library that is only an oracle here
def test_parameters_are_those_of_transformers(transformers, name):
    import torch

    config = CONFIGS[name]
    said = {key: value for key, value in config.items() if key != "model_type"}
    made = transformers.AutoConfig.for_model(config["model_type"], **said)
    kind = next(model for family, (model, _) in huggingface._FAMILIES.items() if family == config["model_type"])
    with torch.device("meta"):
        model = getattr(transformers, kind)(made)
    assert whole(config).params == sum(p.numel() for p in model.parameters())
    assert whole(json.loads(made.to_json_string(use_diff=False))).params == whole(config).params


# Written from the models' published config.json; parameters as their pages state them
PUBLISHED = {
    "Qwen2.5-0.5B": (
        {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24}
        | {"num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True}
        | {"max_position_embeddings": 32768, "rope_theta": 1000000.0, "use_sliding_window": False},
        494_032_768,
    ),
    "Qwen3-0.6B": (
        {"model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28}
        | {"num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 151936, "tie_word_embeddings": True}
        | {"max_position_embeddings": 40960, "head_dim": 128},
        596_049_920,
    ),
    "Qwen3-30B-A3B": (
        {"model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48}
        | {"num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 151936, "head_dim": 128}
        | {"max_position_embeddings": 40960, "num_experts": 128, "num_experts_per_tok": 8}
        | {"moe_intermediate_size": 768, "tie_word_embeddings": False},
        30_532_122_624,
    ),
    "T5 v1.1 small": (  # its head is its own, though newer transformers tie it
        {"model_type": "t5", "d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6}
        | {"vocab_size": 32128, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        76_961_152,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameters(name):
    config, params = PUBLISHED[name]
    assert whole(config).params == params


def test_a_configuration_is_the_network_of_the_same_name():
    config = LLAMA | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256}
    config |= {"num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192}
    config |= {"rope_theta": 500000.0, "rms_norm_eps": 1e-5}
    assert network(config).graph == parse("llama-3-8b").graph


def test_the_window_of_qwen_starts_late():
    layers = [s.layer for s in walk(network(CONFIGS["qwen2 with a window, tied"]).graph, (32,)) if s.op == "attn"]
    assert [layer.window for layer in layers] == [None, None, 8]
    assert all(layer.bias and layer.out_bias is False for layer in layers)


def test_what_a_file_leaves_out_is_the_familys():
    layer = next(s.layer for s in walk(network(CONFIGS["mistral with the usual window"]).graph, (9,)) if s.op == "attn")
    assert (layer.window, layer.theta, layer.kv_heads) == (4096, 10000.0, 2)
    layer = next(s.layer for s in walk(network(CONFIGS["mixtral"]).graph, (9,)) if s.op == "attn")
    assert (layer.window, layer.theta) == (None, 1e6)


def test_the_base_of_rotation_may_be_nested():
    nested = LLAMA | {"rope_parameters": {"rope_type": "default", "rope_theta": 250000.0}}
    assert network(nested).graph == network(LLAMA | {"rope_theta": 250000.0}).graph


def test_notes():
    read = huggingface.read(json.dumps(LLAMA | {"architectures": ["LlamaForTokenClassification"]}), "c.json")
    assert read.notes == ["c.json is for LlamaForTokenClassification; it is read as LlamaForCausalLM"]
    scaled = huggingface.read(json.dumps(LLAMA | {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}), "c.json")
    assert "llama3" in scaled.notes[0]
    assert huggingface.read(json.dumps(LLAMA | {"architectures": ["LlamaForCausalLM"]}), "c.json").notes == []


@pytest.mark.parametrize(
    ("config", "code", "phrases"),
    [
        (LLAMA | {"model_type": "falcon"}, 2, ["c.json", "'falcon'", "gpt2", "llama", "t5"]),
        (LLAMA | {"model_type": ["llama"]}, 65, ["no model_type"]),
        ({"hidden_size": 3}, 65, ["no model_type"]),
        ([1], 65, ["no JSON object"]),
        ({k: v for k, v in LLAMA.items() if k != "hidden_size"}, 65, ["hidden_size is missing"]),
        (LLAMA | {"model_type": "mistral"}, 65, ["num_key_value_heads is missing"]),
        (CONFIGS["qwen2 with a window, tied"] | {"max_window_layers": -1}, 65, ["max_window_layers", "-1"]),
        (LLAMA | {"hidden_size": 0}, 65, ["hidden_size", "at least 1; got 0"]),
        (LLAMA | {"hidden_size": -4}, 65, ["hidden_size", "got -4"]),
        (LLAMA | {"hidden_size": 64.5}, 65, ["hidden_size", "64.5"]),
        (LLAMA | {"num_hidden_layers": True}, 65, ["num_hidden_layers", "True"]),
        (LLAMA | {"rms_norm_eps": "small"}, 65, ["rms_norm_eps", "'small'"]),
        (LLAMA | {"attention_bias": 1}, 65, ["attention_bias", "true or false"]),
        (LLAMA | {"hidden_act": "tanh"}, 2, ["hidden_act", "tanh", "silu"]),
        (LLAMA | {"hidden_act": ["silu"]}, 2, ["hidden_act"]),
        (GPT2 | {"add_cross_attention": True}, 2, ["add_cross_attention", "true"]),
        (T5 | {"feed_forward_proj": "swish"}, 2, ["feed_forward_proj", "swish", "gated-gelu"]),
        (BERT | {"is_decoder": True}, 2, ["is_decoder"]),
        (CONFIGS["qwen3_moe"] | {"mlp_only_layers": [1]}, 2, ["mlp_only_layers"]),
    ],
)
def test_refusals(config, code, phrases):
    with pytest.raises(DlkitError) as caught:
        network(config, "c.json")
    assert caught.value.code == code
    for phrase in phrases:
        assert phrase in caught.value.message


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ('{"a": 1,}', ["c.json", "line 1, position"]),
        ("{", ["line 1"]),
        ("", ["line 1"]),
        ('{"model_type": "llama", "hidden_size": NaN}', ["NaN"]),
        ("[" * 100_000, ["deep"]),
    ],
)
def test_malformed(text, phrases):
    with pytest.raises(DlkitError) as caught:
        huggingface.read(text, "c.json")
    assert caught.value.code == 65
    for phrase in phrases:
        assert phrase in caught.value.message


def test_on_the_command_line(dlkit, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "config.json").write_text(json.dumps(GPT2))
    params = str(whole(GPT2).params)
    for words, stdin in [(["here/config.json"], ""), (["@here/config.json"], ""), (["-"], json.dumps(GPT2))]:
        ran = dlkit("convshape", *words, "--json", stdin=stdin)
        assert ran.code == 0 and "error" not in ran.err and params in ran.out
    assert dlkit("convshape", "16", "here/config.json", "-q").out == "16x100\n"
    (tmp_path / "bad.json").write_text('{"model_type": "llama", }')
    ran = dlkit("convshape", "bad.json")
    assert (ran.code, ran.out) == (65, "") and "bad.json" in ran.err and "Traceback" not in ran.err
    assert dlkit("convshape", "none.json").code == 66
    (tmp_path / "bad.json").write_text('{"model_type": "falcon"}')
    ran = dlkit("convshape", "bad.json", "--json")
    assert (ran.code, ran.out) == (2, "") and "falcon" in json.loads(ran.err)["error"]["message"]
