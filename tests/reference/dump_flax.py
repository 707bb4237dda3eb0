"""Make flax.npz: files of Flax, as Transformers 4 wrote them, and the logits of the models that they hold.

    python -m venv flax && flax/bin/pip install "transformers==4.46.3" flax
    flax/bin/python tests/reference/dump_flax.py

Peers: transformers 4.46.3, flax 0.12.8, jax 0.10.2, in an environment of their own, as transformers 5 has no Flax.

    NAME/FILE       the bytes of a file, uint8: `model` is FlaxGPT2LMHeadModel, `shards` the same in several files, with
                    a head of its own, in bfloat16, `state` what flax.serialization.to_bytes makes of a training, its
                    arrays in pieces of 100 bytes
    NAME/logits     [T, V] float32, of `ids` [T]
    base/ln_f       [T, C] float32, the output of FlaxGPT2Model, whose file is base/flax_model.msgpack
"""

import tempfile
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
from transformers import FlaxGPT2LMHeadModel, FlaxGPT2Model, GPT2Config

SIZES = {"vocab_size": 23, "n_positions": 8, "n_embd": 12, "n_head": 3, "n_layer": 2, "bos_token_id": 1}
generator = np.random.default_rng(0)
ids = np.array([[3, 1, 4, 1, 5, 9, 2]])
found = {"ids": ids[0]}


def spread(params):
    """Give a model weights at which every part of it does something, the gains of its norms too."""
    return jax.tree_util.tree_map(lambda x: x + jnp.asarray(generator.standard_normal(x.shape) * 0.3, x.dtype), params)


def made(kind, **settings):
    model = kind(GPT2Config(**SIZES, eos_token_id=2, **settings))
    model.params = spread(model.params)
    return model


def keep(name, model, save=None, **how):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, **how)
        if save:
            save(Path(folder))
        for path in sorted(Path(folder).iterdir()):
            if path.name == "config.json" or "flax_model" in path.name:
                found[f"{name}/{path.name}"] = np.frombuffer(path.read_bytes(), np.uint8)
    found[f"{name}/{'ln_f' if name == 'base' else 'logits'}"] = np.asarray(model(ids)[0][0])


def save_state(folder):
    flax.serialization.MAX_CHUNK_SIZE = 100
    zeros = jax.tree_util.tree_map(jnp.zeros_like, state.params)
    value = {"step": 7, "params": state.params, "opt_state": {"0": {"count": jnp.zeros((), jnp.int32), "mu": zeros}}}
    (folder / "flax_model.msgpack").write_bytes(flax.serialization.to_bytes(value))


keep("model", made(FlaxGPT2LMHeadModel))
keep("base", made(FlaxGPT2Model))
own_head = made(FlaxGPT2LMHeadModel, tie_word_embeddings=False)
own_head.params = own_head.to_bf16(own_head.params)
keep("shards", own_head, max_shard_size="3KB")
state = made(FlaxGPT2LMHeadModel)
keep("state", state, save_state)
np.savez_compressed(Path(__file__).with_name("flax.npz"), **found)
