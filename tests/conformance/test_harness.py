"""numgpt in lm-evaluation-harness beside its `hf` model: the same answer to each request, the same results of tasks.

Models: one of chance with GPT-2's vocabulary and a short context, and the storyteller, in float32. `hf` takes its
softmax and adds up in float64, or the sums over long texts would differ in the seventh digit.
"""

import doctest
import importlib.util
import json
import math
import pathlib
import random
from functools import partial

import numpy as np
import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from support.cli import call, fails
from support.serving import served
from transformers import GPT2Config, GPT2LMHeadModel

import numgpt
from numgpt.checkpoint.export import write_vocabulary
from numgpt.checkpoint.vocabulary import gpt2
from numgpt.errors import ContextError, OptionError, TokenError
from numgpt.measure import harness
from numgpt.measure.harness import Harness

ROOT = pathlib.Path(__file__).parents[2]
STORYTELLER = ROOT / "weights" / "storyteller"
VAL = (STORYTELLER / "val.txt").read_text(encoding="utf-8")
TALES = [tale.strip() for tale in VAL.split("<|endoftext|>") if tale.strip()]
WORDS = VAL.replace("<|endoftext|>", "").split()
ENDING = TALES[99][-400:]  # after which the storyteller comes to an end in less than 30 tokens
NATS = 1e-4

spec = importlib.util.spec_from_file_location("make_reference", ROOT / "tests" / "reference" / "make_reference.py")
make_reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_reference)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads that multiply matrices this small wait for each other, on a busy machine for minutes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_model_of_chance(folder):
    config = GPT2Config(n_positions=64, n_embd=32, n_head=4, n_layer=2)
    model = GPT2LMHeadModel(config).eval()
    make_reference.spread(model, np.random.default_rng(5))
    model.save_pretrained(folder)
    write_vocabulary(gpt2(), folder)
    return folder


def hf(folder, **options):
    return HFLM(str(folder), device="cpu", dtype="float32", softmax_dtype="float64", batch_size=3, **options)


@pytest.fixture(scope="module", params=["chance", "storyteller"])
def folder(request, tmp_path_factory):
    chance = request.param == "chance"
    return write_model_of_chance(tmp_path_factory.mktemp("chance")) if chance else STORYTELLER


@pytest.fixture(scope="module")
def ours(folder):
    return Harness(folder, batch_size=3)


@pytest.fixture(scope="module")
def theirs(folder):
    return hf(folder)


@pytest.fixture(scope="module")
def plain(folder):
    """`hf` without its memory for continuations that are alike up to their last token."""
    return hf(folder, logits_cache=False)


def instances(kind, requests):
    return [Instance(kind, {}, request, number) for number, request in enumerate(requests)]


def ask(model, kind, requests):
    return getattr(model, kind)(instances(kind, requests), disable_tqdm=True)


def words(draw, n):
    start = draw.randrange(len(WORDS) - n)
    return " ".join(WORDS[start : start + n])


def assert_same(found, expected):
    assert len(found) == len(expected)
    for (log_prob, greedy), (their_log_prob, their_greedy) in zip(found, expected, strict=True):
        assert log_prob == pytest.approx(their_log_prob, abs=NATS)
        assert greedy == their_greedy


# ---- the three kinds of requests


def test_continuations_are_as_likely_as_to_hf(ours, theirs):
    draw = random.Random(0)
    requests = []
    for n in 1, 2, 5, 20, 60, 700:  # of these some are longer than the context, which cuts them
        for _ in range(2):
            before = words(draw, n)
            requests += [(before, f" {words(draw, draw.choice([1, 1, 2, 9]))}") for _ in range(4)]
    requests += [
        ("", "Once upon a time"),
        ("", "<|endoftext|>Once upon a time"),
        ("<|endoftext|>", "Once"),
        ("One.<|endoftext|>Two", "."),
        ("The king ", "said"),  # a space that moves to the continuation
        ("A\n\n\t ", "b"),
        ("été 東京", " 😀 naïve\u0301"),
        ("e\u0301", "\u200d👩"),
        ("a kin", "dness that"),  # a word that the cut goes through
        ("x", words(draw, 30)),  # longer than its context
    ]
    assert_same(ask(ours, "loglikelihood", requests), ask(theirs, "loglikelihood", requests))


def test_continuations_as_long_as_the_context_are_too_and_longer_ones_an_error(ours, theirs):
    n = ours.max_length
    ids = ours.tok_encode(VAL)[: n + 1]
    full = [(None, ids[:7], ids[1:])]
    assert_same(ours._loglikelihood_tokens(full), theirs._loglikelihood_tokens(full))
    with pytest.raises(ContextError, match=f"an ending of {n + 1} ids, but the context of this model is {n}"):
        ours._loglikelihood_tokens([(None, ids[:1], ids)])


def test_what_greedy_decoding_writes_is_greedy(ours, theirs):
    ids = ours.tok_encode("Once upon a time")
    model = ours.model
    steps = list(numgpt.generate(ids, model.params, model.config, max_new_tokens=5, temperature=0))
    requests = [(None, ids, steps), (None, ids, [*steps[:-1], 7]), (None, [*ids, *steps[:2]], steps[2:])]
    found = ours._loglikelihood_tokens(requests)
    assert [greedy for _, greedy in found] == [True, False, True]
    assert_same(found[:2], theirs._loglikelihood_tokens(requests[:2]))


def test_one_text_cut_at_several_places_is_scored_as_by_hf_without_its_memory(ours, plain):
    """With it `hf` takes the shorter continuation's log-probabilities from the rows of the longer one."""
    requests = [("Once upon a", " time there"), ("Once upon a time", " was"), ("Once upon", " a time that")]
    assert_same(ask(ours, "loglikelihood", requests), ask(plain, "loglikelihood", requests))


def test_whole_texts_are_as_likely_as_to_hf(ours, theirs):
    draw = random.Random(1)
    texts = ["", "Z", "東京は日本の首都", TALES[0][:9000], *(words(draw, n) for n in (3, 60, 200, 500))]
    requests = [(text,) for text in texts]
    found, expected = (ask(model, "loglikelihood_rolling", requests) for model in (ours, theirs))
    assert found == pytest.approx(expected, abs=NATS, rel=1e-7)
    assert found[0] == 0


def test_texts_go_on_as_with_hf(ours, theirs):
    draw = random.Random(2)
    ends = {"until": "\n"}, {"until": ["e", "qu"], "do_sample": False}, {"until": [". ", '"', "ing"]}
    contexts = [words(draw, n) for n in (1, 30, 45, 700)]
    requests = [(before, {**end, "max_gen_toks": 20}) for before in contexts for end in ends]
    requests += [(ENDING, {"max_gen_toks": 30, "temperature": 0.0})]
    requests += [("The king", {"until": ["zzz"], "max_new_tokens": 9, "repetition_penalty": 1.3})]
    requests += [("The king said", {"max_gen_toks": 7, "num_beams": 3})]
    assert ask(ours, "generate_until", requests) == ask(theirs, "generate_until", requests)


# ---- what is not there to compare


@pytest.fixture(scope="module")
def storyteller():
    return Harness("storyteller")


def test_sampled_texts_are_the_same_again_and_differ_from_one_another(storyteller):
    requests = [("Once upon a time", {"do_sample": True, "temperature": 1.0, "max_gen_toks": 12})] * 3
    first = ask(storyteller, "generate_until", requests)
    assert ask(storyteller, "generate_until", requests) == first
    assert len(set(first)) == 3
    other = [(context, {**options, "seed": 1}) for context, options in requests]
    assert ask(storyteller, "generate_until", other) != first


def test_a_text_ends_where_the_model_ends_it(storyteller):
    [found] = ask(storyteller, "generate_until", [(ENDING, {"max_gen_toks": 30})])
    assert len(storyteller.tok_encode(found)) < 30


def test_a_text_goes_on_from_nothing(storyteller):
    [found, expected] = ask(
        storyteller, "generate_until", [(before, {"max_gen_toks": 9}) for before in ("", "<|endoftext|>")]
    )
    assert found == expected != ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_gen_toks": 512}, "max_gen_toks is 512, expected at most 511, since the context is 512"),
        ({"do_sample": True}, "do_sample is True, but temperature is 0: give a temperature"),
        ({"max_length": 9}, "max_length is no option of generate"),
        ({"penalty_alpha": 0.6}, "penalty_alpha is no option of generate"),
        ({"top_p": 1.5, "do_sample": True, "temperature": 1}, "top_p is 1.5, expected a number above 0 and up to 1"),
        ({"until": [""]}, "stop_strings is .*expected a list of strings, none of them empty"),
    ],
)
def test_options_that_are_none_or_out_of_range_are_errors(storyteller, options, message):
    with pytest.raises(OptionError, match=message):
        ask(storyteller, "generate_until", [("The king", options)])


def test_the_harness_finds_the_model_by_name_and_passes_its_arguments_on():
    made = get_model("numgpt").create_from_arg_string("model=storyteller,weights=int8,batch_size=auto", {})
    assert type(made.model.params["h"][0]["attn"]["c_attn"]["w"]) is not np.ndarray
    assert (made.batch_size, made.max_length, made.rank, made.world_size) == (8, 512, 0, 1)
    made = get_model("numgpt").create_from_arg_obj(
        {"model": "storyteller", "dtype": "float64"}, {"batch_size": 2, "device": "cuda:0"}
    )
    assert made.model.params["wte"].dtype == np.float64
    assert made.batch_size == 2


def test_what_it_can_not_do_is_an_error(storyteller):
    for how, message in (
        ({"batch_size": "0"}, "batch_size is '0', expected an integer of 1 or more, or auto"),
        ({"pretrained": "gpt2"}, "pretrained is 'gpt2', expected one of"),
    ):
        with pytest.raises(OptionError, match=message):
            Harness(**how)
    model = storyteller.model
    nameless = model._replace(config=model.config._replace(eos_token_id=None, bos_token_id=None))
    with pytest.raises(OptionError, match="the model has no end-of-text id"):
        Harness(nameless)
    with pytest.raises(TokenError, match="no tokenizer"):
        Harness(model._replace(tokenizer=None))
    with pytest.raises(OptionError, match="GPT-2 has no chat template"):
        storyteller.apply_chat_template([{"role": "user", "content": "Hello"}])


def test_the_samples_of_the_module_print_what_they_show():
    assert doctest.testmod(harness) == (0, 3)


# ---- tasks from files


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with a task of 200 questions, and one of whole texts."""
    folder = tmp_path_factory.mktemp("tasks")
    draw = random.Random(3)
    with (folder / "questions.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(200):
            start, n, gold = draw.randrange(len(WORDS) - 60), draw.randrange(3, 50), draw.randrange(4)
            answers = [words(draw, draw.randrange(1, 5)) for _ in range(4)]
            answers[gold] = " ".join(WORDS[start + n : start + n + 3])
            question = " ".join(WORDS[start : start + n])
            file.write(json.dumps({"question": question, "answers": answers, "gold": gold}) + "\n")
    with (folder / "texts.jsonl").open("w", encoding="utf-8") as file:
        for tale in TALES[:2]:
            file.write(json.dumps({"text": tale[:4000]}) + "\n")
    for name, rest in TASKS.items():
        data = {"cache_dir": str(folder / "cache"), "data_files": {"test": str(folder / f"{name}.jsonl")}}
        task = {"task": f"our_{name}", "dataset_path": "json", "dataset_kwargs": data, "test_split": "test", **rest}
        (folder / f"{name}.yaml").write_text(json.dumps(task), encoding="utf-8")  # which is YAML too
    return folder


TASKS = {
    "questions": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{answers}}",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "texts": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
}


def results_of(model, tasks):
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    names = ["our_questions", "our_texts"]
    return simple_evaluate(model, tasks=names, task_manager=manager, bootstrap_iters=0)["results"]


def test_tasks_have_the_results_that_they_have_with_hf(storyteller, tasks):
    found, expected = results_of(storyteller, tasks), results_of(hf(STORYTELLER), tasks)
    for metric in "acc,none", "acc_norm,none":
        assert found["our_questions"][metric] == expected["our_questions"][metric]
    for metric in "word_perplexity,none", "bits_per_byte,none":
        assert found["our_texts"][metric] == pytest.approx(expected["our_texts"][metric], rel=1e-6)
        assert math.isfinite(found["our_texts"][metric])


@pytest.fixture
def few_tasks(monkeypatch):
    """The harness's own tasks, thousands of files that take it seconds to find, are not looked for."""
    monkeypatch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))


@pytest.mark.usefixtures("few_tasks")
def test_the_command_line_runs_tasks_and_shows_and_writes_what_they_measure(capsys, tasks, tmp_path):
    command = ["eval", "--tasks", "our_questions,our_texts", "--include-path", tasks, "--limit", "20"]
    code, out, _ = call(capsys, *command, "--output", tmp_path / "results.json")
    assert code == 0
    written = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    accuracy = written["results"]["our_questions"]["acc,none"]
    assert f"{accuracy:.4f}"[:4] in out
    assert out.startswith("|    Tasks    |")
    code, out, err = call(capsys, *command, "--json", "-q")
    assert (code, err) == (0, "")
    assert json.loads(out)["results"] == written["results"]


@pytest.mark.usefixtures("few_tasks")
def test_the_command_line_says_what_is_wrong_with_a_task(capsys, tasks, tmp_path):
    assert "--tasks: there is no our_question:" in fails(
        capsys, "eval", "-q", "--tasks", "our_question", "--include-path", tasks
    )
    (tmp_path / "broken.yaml").write_text((tasks / "texts.yaml").read_text().replace("texts.jsonl", "none.jsonl"))
    assert "lm-evaluation-harness: FileNotFoundError" in fails(
        capsys, "eval", "-q", "--tasks", "our_texts", "--include-path", tmp_path
    )


# ---- the server, asked by the harness


@pytest.mark.parametrize("how", [{"batch_size": 1}, {"batch_size": 3, "num_concurrent": 4}])
def test_the_harness_s_client_gets_from_the_server_what_hf_computes(folder, theirs, how):
    draw, length = random.Random(1), theirs.max_length
    requests = [(words(draw, n), f" {words(draw, m)}") for n in (1, 2, 5, 20) for m in (1, 1, 2, 6)]
    requests += [("The king ", "said"), ("a kin", "dness that"), ("A<|endoftext|>B", " c"), ("", "Once upon")]
    texts = [(words(draw, 12),), ("",)]
    written = [
        ("Once upon a time", {"until": ["."], "max_gen_toks": 20}),
        ("The king", {"until": [], "max_gen_toks": 9}),
    ]
    with served(numgpt.load(folder), name="numgpt") as client:
        options = {"base_url": f"{client.url}/v1/completions", "tokenizer_backend": "remote", "max_length": length + 1}
        remote = get_model("local-completions")(model="numgpt", **options, **how)
        assert_same(ask(remote, "loglikelihood", requests), ask(theirs, "loglikelihood", requests))
        for found, expected in zip(
            ask(remote, "loglikelihood_rolling", texts), ask(theirs, "loglikelihood_rolling", texts), strict=True
        ):
            assert found == pytest.approx(expected, abs=NATS)
        assert ask(remote, "generate_until", written) == ask(theirs, "generate_until", written)
