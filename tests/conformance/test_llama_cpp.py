"""numgpt verify against llama.cpp, which is told as what it is."""

import llama_cpp
import numpy as np
import pytest
from conformance.test_verify import assert_told, folders, script, verified  # noqa: F401  (folders is a fixture)

peers = script("bench/peers.py")


@pytest.mark.parametrize("cache", ["float32", "default"])
@pytest.mark.parametrize("which", ["wide", "trained"])
def test_llama_cpp_is_told_by_its_table_of_gelu(folders, which, cache, tmp_path):  # noqa: F811
    """It looks GELU up in a table of half precision, also where all weights are float32; and so we say.

    Its keys and values are kept in half precision too, unless it is asked not to.
    """
    folder, ids = folders[which]
    peers.make_gguf(folder, tmp_path / "model.gguf")
    kinds = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32} if cache == "float32" else {}
    model = llama_cpp.Llama(str(tmp_path / "model.gguf"), n_ctx=32, logits_all=True, verbose=False, **kinds)
    model.eval(ids)
    logits = np.array(model.scores[: len(ids)])
    assert_told(verified({"logits": logits}, folder, ids), "logits", "half-precision table .* llama.cpp")
