"""A Hugging Face config.json as a network in the network language.

Decoders are read with their language-model head, BERT as BertModel with its pooler, T5 with encoder, decoder and
head. Defaults for keys that a file may leave out are those of transformers' configuration classes.
"""

import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from dlkit.core import zoo_sequence as write
from dlkit.core.errors import DlkitError, bad_data

Json = dict[str, Any]


class Config(NamedTuple):
    """The network's text, and what a reader should know that the text does not say."""

    text: str
    notes: list[str]


def read(text: str, name: str) -> Config:
    """The network that a config.json describes; `name` is for messages.

    Not JSON, or a value that cannot be: DlkitError with exit code 65. A family or a variant that is not known: 2.
    """
    keys = _Keys(_object(text, name), name)
    family = keys.get("model_type")
    if not isinstance(family, str):
        raise bad_data(f"{name}: it has no model_type", "a network as JSON is the config.json of a Hugging Face model")
    if family not in _FAMILIES:
        raise DlkitError(f"{name}: the model family {family!r} is not known; known: {', '.join(_FAMILIES)}")
    model, lines = _FAMILIES[family]
    body = "\n".join([f"# {family}, read as {model}", *lines(keys), ""])
    return Config(body, _differences(keys, name, model))


def _object(text: str, name: str) -> Json:
    def constant(word: str) -> NoReturn:
        raise bad_data(f"{name}: {word} is not a JSON number")

    try:
        value = json.loads(text, parse_constant=constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, position {error.colno}"
        raise bad_data(f"{name}: not valid JSON at {where}: {error.msg.lower()}") from None
    except RecursionError:
        raise bad_data(f"{name}: JSON nested too deeply") from None
    if not isinstance(value, dict):
        raise bad_data(f"{name}: it holds no JSON object, as a config.json does")
    return value


def _differences(keys: "_Keys", name: str, model: str) -> list[str]:
    """What the file says beside the network."""
    said = keys.get("architectures")
    named = said if isinstance(said, list) and all(isinstance(s, str) for s in said) else []
    notes = [] if not named or model in named else [f"{name} is for {', '.join(named)}; it is read as {model}"]
    scaling = keys.get("rope_scaling") or keys.get("rope_parameters") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default")) if isinstance(scaling, dict) else "default"
    if kind != "default":
        notes.append(f"rotary positions are built without the scaling {kind!r}; no count depends on it")
    return notes


class _Keys:
    """The values of a config.json, each checked as it is read."""

    def __init__(self, values: Json, name: str) -> None:
        self.values, self.name = values, name

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def wrong(self, key: str, expected: str) -> NoReturn:
        raise bad_data(f"{self.name}: {key} must be {expected}; got {self.values[key]!r}")

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 1."""
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise bad_data(f"{self.name}: {key} is missing")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self.wrong(key, "a whole number of at least 1")
        return value

    def optional(self, key: str, default: int | None = None) -> int | None:
        """A size, or null for none; `default` where the file does not say."""
        return None if self.values.get(key, default) is None else self.size(key, default)

    def number(self, key: str, default: float) -> float:
        """A finite number that is not negative."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            self.wrong(key, "a number that is not negative")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            self.wrong(key, "true or false")
        return value

    def activation(self, key: str, default: str) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str) or value not in _ACTIVATIONS:
            self.unsupported(key, f"known: {', '.join(_ACTIVATIONS)}")
        return _ACTIVATIONS[value]

    def refuse(self, key: str, *usual: Any) -> None:
        """Refuse a variant of the family that the network language does not have."""
        if key in self.values and self.values[key] not in usual:
            self.unsupported(key, f"only {' or '.join(map(json.dumps, usual))} can be read")

    def unsupported(self, key: str, known: str) -> NoReturn:
        raise DlkitError(f"{self.name}: {key} {json.dumps(self.values[key])} is not supported; {known}")

    def theta(self, default: float) -> float:
        """The base of rotation, which newer files nest."""
        nested = self.values.get("rope_parameters")
        holder = nested if isinstance(nested, dict) and "rope_theta" in nested else self.values
        return _Keys(holder, self.name).number("rope_theta", default)


_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu-tanh",
    "gelu_pytorch_tanh": "gelu-tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


# Families ---------------------------------------------------------------------------------------


def _gpt2(keys: _Keys) -> list[str]:
    keys.refuse("add_cross_attention", False)
    keys.refuse("scale_attn_weights", True)
    keys.refuse("scale_attn_by_inverse_layer_idx", False)
    context = keys.size("n_positions")
    return write.gpt(
        *(keys.size("n_layer"), keys.size("n_embd"), keys.size("n_head")),
        context=context,
        vocab=keys.size("vocab_size"),
        hidden=keys.optional("n_inner"),
        act=keys.activation("activation_function", "gelu_new"),
        eps=keys.number("layer_norm_epsilon", 1e-5),
        dropout=keys.number("resid_pdrop", 0.1),
        attention_dropout=keys.number("attn_pdrop", 0.1),
        tie=keys.flag("tie_word_embeddings", True),
    )


def _decoder(keys: _Keys, theta: float = 10000.0, **own: Any) -> list[str]:
    """What Llama, Mistral, Mixtral and Qwen have in common; `own` is what sets a family apart."""
    heads = keys.size("num_attention_heads")
    if keys.values["model_type"] != "llama" and "num_key_value_heads" not in keys.values:
        keys.size("num_key_value_heads")  # null means one for each head; not to say it means another number each time
    common = {
        "context": keys.size("max_position_embeddings"),
        "vocab": keys.size("vocab_size"),
        "theta": keys.theta(theta),
        "eps": keys.number("rms_norm_eps", 1e-6),
        "head_dim": keys.optional("head_dim"),
        "act": keys.activation("hidden_act", "silu"),
        "tie": keys.flag("tie_word_embeddings", False),
        "dropout": keys.number("attention_dropout", 0.0) or None,
        "hidden": keys.size("moe_intermediate_size" if "moe_intermediate_size" in keys.values else "intermediate_size"),
    }
    layers, width = keys.size("num_hidden_layers"), keys.size("hidden_size")
    kv_heads = keys.optional("num_key_value_heads") or heads
    return write.llama(layers, width, heads, kv_heads, **(common | own))


def _llama(keys: _Keys) -> list[str]:
    mlp_bias = keys.flag("mlp_bias", False) or None
    return _decoder(keys, bias=keys.flag("attention_bias", False), mlp_bias=mlp_bias)


def _mistral(keys: _Keys) -> list[str]:
    return _decoder(keys, window=keys.optional("sliding_window", 4096))


def _mixtral(keys: _Keys) -> list[str]:
    experts = {"experts": keys.size("num_local_experts"), "top": keys.size("num_experts_per_tok")}
    eps = keys.number("rms_norm_eps", 1e-5)
    return _decoder(keys, 1e6, window=keys.optional("sliding_window"), eps=eps, **experts)


def _qwen_window(keys: _Keys) -> dict[str, Any]:
    """Qwen's window holds from layer max_window_layers on."""
    if not keys.flag("use_sliding_window", False):
        return {}
    full = 0 if keys.get("max_window_layers") == 0 else keys.size("max_window_layers", 28)
    return {"window": keys.optional("sliding_window", 4096), "full_layers": full}


def _qwen2(keys: _Keys) -> list[str]:
    return _decoder(keys, bias=True, out_bias=False, **_qwen_window(keys))


def _qwen3(keys: _Keys) -> list[str]:
    return _normed(keys, head_dim=keys.size("head_dim", 128))


def _normed(keys: _Keys, **own: Any) -> list[str]:
    """Qwen3's attention, its queries and keys normalised."""
    return _decoder(keys, bias=keys.flag("attention_bias", False), qk_norm=True, **_qwen_window(keys), **own)


def _qwen3_moe(keys: _Keys) -> list[str]:
    keys.refuse("decoder_sparse_step", 1)
    keys.refuse("mlp_only_layers", [], None)
    experts = "num_experts" if "num_experts" in keys.values else "num_local_experts"  # as newer versions write it
    return _normed(keys, experts=keys.size(experts), top=keys.size("num_experts_per_tok"))


def _bert(keys: _Keys) -> list[str]:
    keys.refuse("is_decoder", False)
    keys.refuse("add_cross_attention", False)
    keys.refuse("position_embedding_type", "absolute")
    context = keys.size("max_position_embeddings")
    return write.bert(
        *(keys.size("num_hidden_layers"), keys.size("hidden_size"), keys.size("num_attention_heads")),
        context=context,
        positions=context,
        vocab=keys.size("vocab_size"),
        types=keys.size("type_vocab_size"),
        hidden=keys.size("intermediate_size"),
        act=keys.activation("hidden_act", "gelu"),
        eps=keys.number("layer_norm_eps", 1e-12),
        dropout=keys.number("hidden_dropout_prob", 0.1),
        attention_dropout=keys.number("attention_probs_dropout_prob", 0.1),
    )


def _t5(keys: _Keys) -> list[str]:
    keys.refuse("relative_attention_max_distance", 128)
    keys.refuse("feed_forward_proj", "relu", "gelu", "gated-gelu", "gated-silu")
    feed = keys.values.get("feed_forward_proj", "relu")
    act, gated = feed.removeprefix("gated-"), feed.startswith("gated-")
    context = keys.size("n_positions", 512)
    return write.t5(
        *(keys.size("num_layers"), keys.size("d_model"), keys.size("num_heads"), keys.size("d_ff")),
        context=context,
        target=context,
        vocab=keys.size("vocab_size"),
        decoder_layers=keys.optional("num_decoder_layers"),
        head_dim=keys.size("d_kv"),
        buckets=keys.size("relative_attention_num_buckets", 32),
        act="gelu-tanh" if gated and act == "gelu" else act,
        gated=gated,
        eps=keys.number("layer_norm_epsilon", 1e-6),
        dropout=keys.number("dropout_rate", 0.1),
        tie=keys.flag("tie_word_embeddings", True),
    )


_FAMILIES: dict[str, tuple[str, Callable[[_Keys], list[str]]]] = {
    "gpt2": ("GPT2LMHeadModel", _gpt2),
    "llama": ("LlamaForCausalLM", _llama),
    "mistral": ("MistralForCausalLM", _mistral),
    "mixtral": ("MixtralForCausalLM", _mixtral),
    "qwen2": ("Qwen2ForCausalLM", _qwen2),
    "qwen3": ("Qwen3ForCausalLM", _qwen3),
    "qwen3_moe": ("Qwen3MoeForCausalLM", _qwen3_moe),
    "bert": ("BertModel", _bert),
    "t5": ("T5ForConditionalGeneration", _t5),
}
