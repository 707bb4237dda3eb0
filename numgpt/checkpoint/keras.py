"""Read tf_model.h5, the weights that Transformers 4 wrote of TFGPT2LMHeadModel and its kin through Keras.

The file is one of HDF5, which hdf5.py reads: groups of named arrays. Keras makes a group for each of its layers, and in
that groups again for each part of a weight's name, so that the whole path of one is

    transformer/tfgpt2lm_head_model/transformer/h_._3/attn/c_attn/weight:0

What counts is what follows the last group called `transformer`. Before it come the layer; the name of the model, which
older versions of Keras spell tfgp_t2lm_head_model, TFGPT2Model has as tfgpt2_model, and some files not at all; and
`model_weights` where somebody saved more than the weights. After it:

    wte/weight:0 [V, C] in old files, wte/embeddings:0 in newer ones; wpe/embeddings:0 [T, C]
    h_._N/{ln_1,ln_2}/{gamma,beta}:0, ln_f/{gamma,beta}:0     [C]
    h_._N/attn/{c_attn,c_proj}/{weight,bias}:0                [C, 3C], [C, C]; biases are [1, n]
    h_._N/mlp/{c_fc,c_proj}/{weight,bias}:0                   [C, F], [F, C]

Matrices are [in, out] as the Hub's are. There is no head: it is wte. The sizes of the model are in config.json beside
the file. Beside the model there may be, and are left out,

    optimizer_weights/...                              the state of the optimizer, in what Keras' own save wrote
    multiple_choice_head/.../summary, score/...        the head of a classifier, as GPT2DoubleHeadsModel has one

A large model is in several files, tf_model-00001-of-00002.h5, which tf_model.h5.index.json lists. In these each path
lacks its first group, but the index has it: a/b/c in the index is b/c in the file that it names.

Source: huggingface/transformers, v4.46.3, modeling_tf_gpt2.py and TFPreTrainedModel.save_pretrained of
modeling_tf_utils.py; keras-team/tf-keras, saving/legacy/hdf5_format.py.
"""

import re

from numgpt.checkpoint.aliases import changed
from numgpt.checkpoint.contract import Glance, Opened
from numgpt.checkpoint.files import listing, place_of, printable, read_shards, wrong
from numgpt.checkpoint.hdf5 import SIGNATURE, read_hdf5
from numgpt.checkpoint.settings import read_settings
from numgpt.checkpoint.tensors import LazyTensor

OPTIMIZERS = ("optimizer_weights", "optimizer")  # the first group, in versions 2 and 3 of Keras
HEADS = {"multiple_choice_head", "summary", "score"}
LAST = {"gamma": "weight", "beta": "bias", "embeddings": "weight"}


def is_mine(glance: Glance) -> bool:
    """Tell whether a file is one of HDF5, or the index of several."""
    return glance.start.startswith(SIGNATURE) or glance.path.name.endswith(".h5.index.json")


def open_weights(glance: Glance) -> Opened:
    """Open a file of Keras, or the index of several, with config.json beside it."""
    path = glance.path
    is_file = glance.start.startswith(SIGNATURE)
    stored = read_hdf5(path) if is_file else read_shards(path, read_hdf5, ".h5", in_shard)
    left_out = {name: why for name in stored if (why := why_left_out(name))}
    tensors = {name: tensor for name, tensor in stored.items() if name not in left_out}
    hub_tensors: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        if (hub := hub_name(name)) in hub_tensors:
            raise wrong(place_of(path, name), f"is there twice as {printable(hub)}, expected it once", "save it again")
        is_row = hub.endswith(".bias") and len(tensor.shape) == 2 and tensor.shape[0] == 1
        hub_tensors[hub] = changed(tensor, tensor.shape[1:], lambda x: x.reshape(-1)) if is_row else tensor
    if not hub_tensors.keys() & {"wte.weight", "wpe.weight", "ln_f.weight", "h.0.ln_1.weight"}:
        what = (
            f"holds {listing([printable(name) for name in stored][:3]) or 'no array'}, expected the tensors of a GPT-2"
        )
        raise wrong(path, what, "numgpt reads what Transformers saved of TFGPT2LMHeadModel, and no other model")
    config, settings = read_settings(path.parent, hub_tensors, glance.given)
    return Opened(path, "keras", tensors, hub_tensors, config, settings, path.parent, left_out=left_out)


def why_left_out(path: str) -> str:
    """Return why a weight of Keras is no tensor of the model; where it may be one, nothing.

    >>> why_left_out("score/tfgpt2_for_sequence_classification/score/kernel:0"), why_left_out("transformer/ln_f/beta:0")
    ('the head of a classifier', '')
    """
    groups = path.split("/")[:-1]
    if groups[:1] and groups[0] in OPTIMIZERS:
        return "the state of the optimizer"
    return "" if HEADS.isdisjoint(groups) else "the head of a classifier"


def hub_name(path: str) -> str:
    """Return the name in the Hub's files of a weight of Keras.

    >>> hub_name("transformer/tfgpt2lm_head_model/transformer/h_._3/ln_1/gamma:0"), hub_name("wte/weight:0")
    ('h.3.ln_1.weight', 'wte.weight')
    """
    tail = f"/{path}".rpartition("/transformer/")[2].removeprefix("/")
    stem, _, last = tail.removesuffix(":0").rpartition("/")
    return f"{re.sub('^h_[.]_', 'h/', stem)}/{LAST.get(last, last)}".replace("/", ".")


def in_shard(name: str) -> str:
    """Return the path in its file of a weight that the index of several names.

    >>> in_shard("tfgpt2lm_head_model/transformer/wte/weight:0")
    'transformer/wte/weight:0'
    """
    return name.partition("/")[2] or name
