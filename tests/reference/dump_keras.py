"""Make keras.npz: files that Transformers 4 saved of small random GPT-2s through Keras, and the logits of the models.

    TF_USE_LEGACY_KERAS=1 python tests/reference/dump_keras.py

Peers: transformers 4.46.3, a version that still has TensorFlow; tensorflow 2.21.0, tf-keras 2.21.0, h5py 3.14.0.

    ids             [T] int64
    NAME/logits     [T, V] float32, TensorFlow's
    NAME/FILE       the bytes of a file as it was saved
"""

import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras
from transformers import GPT2Config, TFGPT2DoubleHeadsModel, TFGPT2LMHeadModel

CONFIG = GPT2Config(vocab_size=11, n_positions=7, n_embd=6, n_head=2, n_layer=2, n_inner=10)
IDS = tf.constant([[3, 1, 4, 1, 5, 10]])
found = {"ids": IDS.numpy()[0].astype(np.int64)}


def drawn(model):
    """Give a model, which has its weights by now, wide ones drawn at random. Returns it."""
    generator = np.random.default_rng(0)
    model.set_weights([generator.standard_normal(x.shape).astype(np.float32) for x in model.get_weights()])
    return model


def keep(name, save):
    """Note all the files that are saved."""
    with tempfile.TemporaryDirectory() as folder:
        save(folder)
        for path in Path(folder).iterdir():
            if path.name != "generation_config.json":
                found[f"{name}/{path.name}"] = np.frombuffer(path.read_bytes(), np.uint8)


model = TFGPT2LMHeadModel(CONFIG)
model(IDS)
found["whole/logits"] = found["shards/logits"] = drawn(model)(IDS).logits.numpy()[0]
keep("whole", model.save_pretrained)
keep("shards", lambda folder: model.save_pretrained(folder, max_shard_size="2KB"))

unnamed = TFGPT2LMHeadModel(CONFIG)
unnamed.build()  # and not called: then no name of the model is in those of its weights
found["unnamed/logits"] = drawn(unnamed)(IDS).logits.numpy()[0]
keep("unnamed", lambda folder: unnamed.save_pretrained(folder, max_shard_size="2KB"))

double = TFGPT2DoubleHeadsModel(CONFIG)
double(IDS[None])
found["double/logits"] = drawn(double)(IDS[None]).logits.numpy()[0, 0]
keep("double", double.save_pretrained)

ids = tf_keras.Input((6,), dtype="int32")
inner = TFGPT2LMHeadModel(CONFIG)
outer = tf_keras.Model(ids, inner(ids).logits)
found["trained/logits"] = drawn(outer)(IDS).numpy()[0]
outer.compile("adam", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
outer.optimizer.build(outer.trainable_variables)
keep("trained", lambda folder: (CONFIG.save_pretrained(folder), outer.save(f"{folder}/tf_model.h5")))

np.savez_compressed(Path(__file__).with_name("keras.npz"), **found)
