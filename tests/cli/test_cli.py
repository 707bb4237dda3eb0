"""The command line: what a person types, sees and gets wrong."""

import json
import os
import shlex
import signal
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
from support.checkpoints import SIZES, TOKENS, hub_tensors, write_checkpoint, write_tokenizer

import numgpt
from numgpt.cli import main as cli
from numgpt.decoding.beam import beam_search
from numgpt.hub import folders

STORY = ["generate", "Once upon a time", "--seed", "1", "-n", "20"]


def run(*arguments, stdin=b"", env=(), **options):
    """Run the command in a process of its own, as a shell would."""
    return subprocess.run(
        [sys.executable, "-m", "numgpt", *arguments],
        input=stdin,
        capture_output=True,
        env={**os.environ, **dict(env)},
        timeout=60,
        **options,
    )


def call(capsys, *arguments):
    """Run the command in this process; return its exit code, standard output and standard error."""
    code = cli.main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def fails(capsys, *arguments):
    """Run a command that must fail as promised, and return its one line."""
    code, out, err = call(capsys, *arguments)
    assert code == 1
    assert out == ""
    assert err.startswith("numgpt: error: ")
    assert err.count("\n") == 1
    return err


def tiny(folder, *, tokenizer=True, tensors=None, **changes):
    """Write a checkpoint of 7 positions and 258 tokens, one for each byte and two more. Return its path as text."""
    sizes = {**SIZES, "vocab_size": TOKENS, **changes}
    tensors = hub_tensors(sizes["vocab_size"]) if tensors is None else tensors
    write_checkpoint(folder, tensors, {"model_type": "gpt2", "eos_token_id": None, **sizes})
    if tokenizer:
        write_tokenizer(folder)
    return str(folder)


# ---- generate


def test_generate_shows_the_prompt_and_the_same_story_each_time(capsys):
    code, out, _ = call(capsys, *STORY)
    assert code == 0
    assert out.startswith("Once upon a time")
    assert out.endswith("\n")
    assert call(capsys, *STORY)[1] == out
    assert call(capsys, *STORY[:-3], "2", *STORY[-2:])[1] != out


def test_generate_ends_with_a_line_on_the_speed_which_q_silences(capsys):
    err = call(capsys, *STORY)[2]
    tokens, seconds, rate = [float(word) for word in err.replace("numgpt: ", "").split() if word[0].isdigit()][:3]
    assert tokens == 20
    assert rate == pytest.approx(tokens / seconds, rel=0.2)
    assert call(capsys, *STORY, "-q")[2] == ""


def test_a_seed_that_was_drawn_is_told_and_makes_the_same_text(capsys):
    _, out, err = call(capsys, "generate", "The king", "-n", "20")
    seed = err.split("seed ")[1].split()[0]
    assert call(capsys, "generate", "The king", "-n", "20", "--seed", seed)[1] == out


def test_generate_equals_the_library(capsys):
    model = numgpt.load("storyteller")
    ids = model.tokenizer.encode("The king")
    options = {"temperature": 0.7, "top_k": 30, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.1, "seed": 3}
    new = list(numgpt.generate(ids, model.params, model.config, max_new_tokens=15, **options))
    flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    result = json.loads(call(capsys, "generate", "The king", "-n", "15", *flags, "--json")[1])
    assert result["ids"] == new
    assert result["text"] == model.tokenizer.decode(new)
    assert result["prompt"] == "The king"
    assert result["finish_reason"] == "length"
    assert result["seed"] == 3


def test_text_appears_piece_by_piece(monkeypatch):
    flushed = []
    monkeypatch.setattr("builtins.print", lambda *a, **k: flushed.append((a, k.get("flush"))))
    assert cli.main([*STORY, "-q"]) == 0
    assert len(flushed) > 15
    assert all(flush for _, flush in flushed)


def test_the_prompt_may_come_from_standard_input_less_its_last_line_end():
    result = run("generate", "-", *STORY[2:], stdin=b"Once upon a time\n")
    assert result.stdout == run(*STORY).stdout
    assert run("generate", "a\n\n", "-n", "0").stdout == b"a\n\n"


def test_an_empty_prompt_starts_from_end_of_text(capsys):
    model = numgpt.load("storyteller")
    new = list(numgpt.generate([4095], model.params, model.config, max_new_tokens=9, temperature=0))
    for prompt in [], [""]:
        result = json.loads(call(capsys, "generate", *prompt, "-n", "9", "--temperature", "0", "--json")[1])
        assert result["ids"] == new


def test_an_empty_prompt_without_an_end_of_text_is_refused(capsys, tmp_path):
    assert "no end-of-text to start from: give some text" in fails(capsys, "generate", "-m", tiny(tmp_path))


def test_special_tokens_count_only_where_they_are_allowed(capsys):
    texts = [call(capsys, "tokenize", "<|endoftext|>", *flag, "--json")[1] for flag in ([], ["--allow-special"])]
    ordinary, special = [json.loads(text)["ids"] for text in texts]
    assert special == [4095]
    assert len(ordinary) > 1
    assert 4095 not in ordinary


def test_generation_stops_at_the_context_limit_and_says_so(capsys, tmp_path):
    code, out, err = call(capsys, "generate", "abc", "-m", tiny(tmp_path), "-n", "100", "--json")
    assert code == 0
    assert json.loads(out)["finish_reason"] == "context"
    assert len(json.loads(out)["ids"]) == 7 - 3 + 1  # the last one needs no position, as nothing follows it
    assert "numgpt: stopped at the context limit of 7 tokens (--overflow slide goes on)\n" in err


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(capsys, tmp_path):
    folder = tiny(tmp_path)
    assert call(capsys, "generate", "abcdefg", "-m", folder)[0] == 0
    message = "the prompt has 8 tokens, but the context of this model is 7"
    assert message in fails(capsys, "generate", "abcdefgh", "-m", folder)


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--temperature", "-1", "temperature is -1.0, expected a finite number, 0 (greedy) or more"),
        ("--temperature", "nan", "temperature is nan"),
        ("--top-k", "-1", "top_k is -1, expected an integer of 1 or more"),
        ("--top-p", "0", "top_p is 0.0, expected a number above 0 and up to 1"),
        ("--min-p", "1.1", "min_p is 1.1, expected a number from 0 to 1"),
        ("--repetition-penalty", "0", "repetition_penalty is 0.0, expected a number from 0.001 to 1000"),
        ("--seed", "-5", "seed is -5, expected an integer from 0 to 2^64 - 1"),
        ("-n", "-1", "max_new_tokens is -1, expected an integer of 0 or more"),
    ],
)
def test_an_option_out_of_range_is_named_with_its_range(capsys, flag, value, message):
    assert message in fails(capsys, "generate", "x", flag, value)


def test_damaged_weights_are_told_instead_of_printing_noise(capsys, tmp_path):
    tensors = hub_tensors(TOKENS)
    tensors["h.0.mlp.c_fc.weight"][1, 2] = np.nan
    folder = tiny(tmp_path, tensors=tensors)
    code, _, err = call(capsys, "generate", "a", "-m", folder, "-q")
    assert code == 1
    assert err.startswith("numgpt: error: the logits of position 1 are not finite (largest: nan)")
    row = next(line for line in call(capsys, "inspect", "-m", folder)[1].splitlines() if "h.0.mlp.c_fc.weight" in line)
    assert row.endswith("6 x 10   1 NOT FINITE")


def test_a_checkpoint_without_a_tokenizer_says_what_is_missing(capsys, tmp_path):
    folder = tiny(tmp_path, tokenizer=False)
    for command in "generate", "tokenize":
        assert "no tokenizer of GPT-2's kind (vocab.json and merges.txt" in fails(capsys, command, "x", "-m", folder)


# ---- tokenize, inspect, models


def test_tokenize_shows_ids_and_pieces(capsys):
    out = call(capsys, "tokenize", "Hello world\u00e9", "-m", "gpt2")[1]
    assert out == "  15496  'Hello'\n    995  ' world'\n   2634  '\u00e9'\n"


def test_tokenize_shows_the_bytes_of_half_a_character(capsys):
    out = call(capsys, "tokenize", "\U0001f642")[1]
    assert out.splitlines()[0].split() == ["172", r"b'\xf0'"]
    assert json.loads(call(capsys, "tokenize", "\U0001f642", "--json")[1])["pieces"][0] == r"\xf0"


def test_tokenize_keeps_every_byte_of_standard_input():
    result = run("tokenize", "-", "--json", stdin=b"a\r\nb\n")
    assert "".join(json.loads(result.stdout)["pieces"]) == "a\r\nb\n"


def test_inspect_shows_config_tensors_and_memory(capsys):
    out = call(capsys, "inspect")[1]
    assert "5,918,720 parameters: 23.7 MB in memory as float32" in out
    assert "6.29 MB more for the keys and values of a full context" in out
    assert "0 values that are not finite" in out
    assert any(line.split() == ["transformer.wte.weight", "F16", "4096", "x", "256"] for line in out.splitlines())
    assert any(line.split() == ["n_ctx", "512"] for line in out.splitlines())
    facts = json.loads(call(capsys, "inspect", "--json")[1])
    assert facts["cache_bytes"] == 2 * 6 * 512 * 256 * 4
    assert facts["parameters"] == sum(np.prod(row["shape"], dtype=int) for row in facts["tensors"])


def test_inspect_shows_the_tensors_of_a_checkpoint_that_does_not_fit_and_then_says_so(capsys, tmp_path):
    code, out, err = call(capsys, "inspect", "-m", tiny(tmp_path, n_layer=3))
    assert code == 1
    assert "wpe.weight" in out
    assert "missing: 12 tensors, such as h.2.ln_1.g, h.2.ln_1.b, h.2.attn.c_attn.w" in err
    code, out, err = call(capsys, "inspect", "-m", str(tmp_path), "--json")
    assert code == 1
    assert len(json.loads(out)["faults"]["missing"]) == 12


def test_set_says_what_no_tensor_tells(capsys, tmp_path):
    path = tiny(tmp_path / "m")
    (tmp_path / "m" / "config.json").unlink()
    assert "--set n_head=N" in fails(capsys, "generate", "h", "-m", path)
    told = ["--set", "n_head=3", "--set", "activation_function=gelu", "--set", "layer_norm_epsilon=1e-6"]
    code, out, _ = call(capsys, "inspect", "-m", path, *told, "--json")
    config = json.loads(out)["config"]
    assert code == 0
    assert (config["n_head"], config["activation_function"], config["layer_norm_epsilon"]) == (3, "gelu", 1e-6)
    for command in (["generate", "h", "-n", "1"], ["score", "hi hi"], ["tokenize", "h"], ["trace", "h"]):
        assert call(capsys, *command, "-m", path, *told)[0] == 0
    assert call(capsys, "convert", path, str(tmp_path / "copy"), *told)[0] == 0
    assert json.loads((tmp_path / "copy" / "config.json").read_text(encoding="utf-8"))["n_head"] == 3


@pytest.mark.parametrize("said", ["n_head", "n_head=", "n_head=x", "n_head=0", "n_layer=2", "=3", "eos_token_id=true"])
def test_what_set_can_not_say_is_refused(capsys, tmp_path, said):
    said = fails(capsys, "inspect", "-m", tiny(tmp_path), "--set", said)
    assert "expected" in said


def test_a_number_of_heads_that_does_not_divide_the_width_is_refused(capsys, tmp_path):
    said = fails(capsys, "inspect", "-m", tiny(tmp_path), "--set", "n_head=4")
    assert "n_head" in said
    assert "6" in said


def test_models_lists_known_names_and_what_lies_in_the_folder(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("NUMGPT_WEIGHTS", str(tmp_path))
    tiny(tmp_path / "someone" / "tuned")
    out = call(capsys, "models")[1]
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    assert "548 MB" in rows["gpt2"]
    assert "not here" in rows["gpt2"]
    assert str(folders.bundled()) in rows["storyteller"]
    assert str(tmp_path / "someone" / "tuned") in rows["someone/tuned"]
    listed = json.loads(call(capsys, "models", "--json")[1])
    assert {row["name"]: row["path"] for row in listed["models"]}["gpt2"] is None


# ---- usage, streams and signals


def test_every_example_of_the_help_runs(capsys):
    texts = [cli.EXAMPLES]
    for commands in cli.GROUPS.values():
        texts += [
            import_module(f"numgpt.cli.{module}").COMMANDS[name].examples for name, (module, _) in commands.items()
        ]
    for text in texts:
        for line in text.splitlines()[1:]:
            command = shlex.split(line.split("    ")[0])
            if command[1:2] in (["tokenize"], ["inspect"], ["models"]) and "path/to" not in line:
                assert call(capsys, *command[1:])[0] == 0


@pytest.mark.parametrize("command", [[], ["generate"], ["tokenize"], ["inspect"], ["models"]])
def test_help_shows_examples(capsys, command):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--help"])
    assert stop.value.code == 0
    assert "examples:\n  numgpt" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [[], ["sing"], ["generate", "--speed"], ["generate", "-n", "many"], ["tokenize"]])
def test_wrong_usage_exits_2(capsys, wrong):
    with pytest.raises(SystemExit) as stop:
        cli.main(wrong)
    assert stop.value.code == 2
    assert "usage: numgpt" in capsys.readouterr().err


def test_an_unknown_model_says_where_it_was_looked_for(capsys):
    err = fails(capsys, "generate", "x", "-m", "nope")
    assert "no checkpoint 'nope'" in err
    assert str(folders.weights_folder()) in err


def test_standard_input_that_is_not_utf_8_is_refused_with_the_place():
    result = run("tokenize", "-", stdin=b"ab\xffc")
    assert result.returncode == 1
    assert result.stderr == b"numgpt: error: standard input: byte 0xff at 2 is not UTF-8: convert it\n"


def test_arguments_that_the_locale_can_not_decode_are_read_as_utf_8():
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = run("tokenize", "w\u00f6rld \U0001f642", "--json", env=ascii_only)
    assert "".join(json.loads(result.stdout)["pieces"]) == r"w\xc3\xb6rld \xf0\x9f\x99\x82"
    assert json.loads(result.stdout) == json.loads(run("tokenize", "w\u00f6rld \U0001f642", "--json").stdout)


def test_bytes_that_are_no_utf_8_at_all_are_escaped():
    result = run("tokenize", b"a\xffb", "--json")
    assert "".join(json.loads(result.stdout)["pieces"]) == r"a\xffb"


def test_characters_that_standard_output_can_not_show_are_escaped():
    result = run("generate", "\u00e9t\u00e9", "-n", "0", env={"PYTHONIOENCODING": "ascii"})
    assert result.returncode == 0
    assert result.stdout == b"\\xe9t\\xe9\n"


def test_a_closed_pipe_ends_the_command_quietly():
    command = f"{shlex.quote(sys.executable)} -m numgpt generate Once --seed 1 -n 400 -q | head -c 20"
    result = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60)
    assert len(result.stdout) == 20
    assert result.stderr == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
def test_a_full_disk_is_told_in_one_line():
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [sys.executable, "-m", "numgpt", "tokenize", "Hello"], stdout=full, stderr=subprocess.PIPE, timeout=60
        )
    assert result.returncode == 1
    assert result.stderr == b"numgpt: error: standard output: No space left on device\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send to one process")
def test_ctrl_c_in_the_middle_exits_130_without_a_traceback():
    command = [sys.executable, "-m", "numgpt", "generate", "Once", "-n", "400", "--seed", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.read(10)  # it has begun
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err


def shell(command):
    """Run a line of shell in which NUMGPT stands for the command."""
    line = command.replace("NUMGPT", f"{shlex.quote(sys.executable)} -m numgpt")
    return subprocess.run(["bash", "-c", line], capture_output=True, timeout=60)


def test_with_standard_error_closed_the_output_stays_pure():
    result = shell("NUMGPT generate Once --seed 1 -n 2 --json 2>&-")
    assert result.returncode == 0
    assert json.loads(result.stdout)["finish_reason"] == "length"
    assert shell("NUMGPT generate Once -n -1 2>&-").stdout == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
def test_a_note_that_can_not_be_written_does_not_cost_the_text():
    result = shell("NUMGPT generate Once -n 2 2>/dev/full")
    assert result.returncode == 0
    assert result.stdout.startswith(b"Once")


def test_with_standard_input_closed_one_line_says_so():
    result = shell("NUMGPT tokenize - <&-")
    assert result.returncode == 1
    assert result.stderr.startswith(b"numgpt: error: standard input is closed: give the text itself")


def test_an_error_after_the_prompt_has_a_line_of_its_own(capsys, tmp_path):
    tensors = hub_tensors(TOKENS)
    tensors["ln_f.bias"][:] = np.inf
    assert call(capsys, "generate", "abc", "-m", tiny(tmp_path, tensors=tensors))[1] == "abc\n"


def test_running_out_of_memory_is_told_in_one_line(capsys, monkeypatch):
    def load(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr("numgpt.hub.loading.load", load)
    assert "out of memory: the checkpoint does not fit" in fails(capsys, "generate", "x")


@pytest.mark.parametrize("make", [lambda path: path.touch(), lambda path: path.mkdir()])
def test_what_lies_in_the_working_folder_does_not_hide_known_names(capsys, tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "gpt2")
    (tmp_path / "storyteller").mkdir()
    rows = {row["name"]: row for row in json.loads(call(capsys, "models", "--json")[1])["models"]}
    assert rows["gpt2"]["path"] is None
    assert rows["storyteller"]["path"] == str(folders.bundled())
    assert call(capsys, *STORY)[0] == 0


def test_a_path_that_is_no_utf_8_is_found(tmp_path):
    folder = os.fsencode(tmp_path) + b"/d\xff"
    os.mkdir(folder)
    tiny(tmp_path / "d")
    for file in (tmp_path / "d").iterdir():
        os.rename(file, folder + b"/" + os.fsencode(file.name))
    assert run("tokenize", "hi", "-m", folder).returncode == 0


def test_without_a_home_folder_the_bundled_model_runs_and_the_rest_says_what_to_set(capsys, monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(folders, "CHECKOUT", None)
    monkeypatch.setattr(folders, "bundled", lambda: folders.HERE.parent / "weights" / "storyteller")
    monkeypatch.setattr("pathlib.Path.home", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert call(capsys, *STORY)[0] == 0
    assert "you have no home folder here: set NUMGPT_WEIGHTS" in fails(capsys, "models")


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"numgpt {numgpt.__version__}\n"


# ---- generate: where a text ends, and how many there are


def test_a_text_ends_before_a_stop_string(capsys):
    _, whole, _ = call(capsys, "generate", "Once upon a time there", "--temperature", "0", "-n", "12", "-q")
    assert " many years old" in whole
    _, out, _ = call(
        capsys,
        "generate",
        "Once upon a time there",
        "--temperature",
        "0",
        "-n",
        "12",
        "-q",
        "--stop",
        "ny ye",
        "--json",
    )
    assert json.loads(out)["text"] == " was a great ma"
    assert json.loads(out)["finish_reason"] == "stop"


def test_several_texts_are_those_of_their_streams(capsys):
    options = ("generate", "The king", "--seed", "2", "-n", "8", "-q", "--num-return-sequences", "3")
    _, out, _ = call(capsys, *options, "--json")
    made = [json.loads(line)["ids"] for line in out.splitlines()]
    m = numgpt.load("storyteller")
    prompt, controls = m.tokenizer.encode("The king"), {"temperature": 0.8, "top_k": 40}
    for stream, ids in enumerate(made):
        steps = numgpt.generate(prompt, m.params, m.config, max_new_tokens=8, seed=2, stream=stream, **controls)
        assert ids == list(steps)
    _, out, _ = call(capsys, *options)
    assert out == "\n".join("The king" + m.tokenizer.decode(ids) + "\n" for ids in made)


def test_the_controls_are_those_of_python(capsys):
    options = ("--bad-words", " was", "--logit-bias", " princess=4", "--no-repeat-ngram-size", "2")
    _, out, _ = call(capsys, "generate", "The king", "--seed", "2", "-n", "9", "-q", "--json", *options)
    m = numgpt.load("storyteller")
    encode = m.tokenizer.encode
    controls = {"bad_words": [encode(" was")], "logit_bias": {tuple(encode(" princess")): 4.0}}
    controls |= {"no_repeat_ngram_size": 2, "temperature": 0.8, "top_k": 40, "seed": 2}
    steps = numgpt.generate(encode("The king"), m.params, m.config, max_new_tokens=9, **controls)
    assert json.loads(out)["ids"] == list(steps)


def test_beams_make_the_likeliest_texts_and_draw_nothing(capsys):
    options = ("--num-beams", "3", "--length-penalty", "2", "--early-stopping", "true", "--stop", " man")
    _, out, err = call(capsys, "generate", "The king", "-n", "9", "--json", "--num-return-sequences", "2", *options)
    assert "seed" not in err
    m = numgpt.load("storyteller")
    found = beam_search(
        m.tokenizer.encode("The king"), m.params, m.config, max_new_tokens=9, num_beams=3, length_penalty=2.0,
        early_stopping=True, num_return_sequences=2, stop_strings=[" man"], tokenizer=m.tokenizer,
    )  # fmt: skip
    assert [json.loads(line)["ids"] for line in out.splitlines()] == [h.ids for h in found]
    _, out, _ = call(capsys, "generate", "The king", "-n", "9", *options)
    assert out == "The king" + m.tokenizer.decode(found[0].ids) + "\n"


def test_past_the_context_limit_a_text_can_slide_and_its_cost_is_said(capsys, tmp_path):
    code, out, err = call(
        capsys, "generate", "abc", "-m", tiny(tmp_path), "-n", "30", "--json", "--seed", "1", "--overflow", "slide"
    )
    assert code == 0
    assert len(json.loads(out)["ids"]) == 30
    assert "went on past the 7 tokens of the context: each time the last 3 of them, computed anew" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--stop", ""), "stop_strings is [''], expected a list of strings, none of them empty"),
        (("--logit-bias", "king"), "--logit-bias is 'king', expected TEXT=NUMBER, as in ' king=2.5'"),
        (("--logit-bias", "=1"), "a key of logit_bias is (), expected one or more ids"),
        (("--bad-words", ""), "bad_words[0] is [], expected one or more ids"),
        (("--num-return-sequences", "0"), "num_return_sequences is 0, expected an integer of 1 or more"),
        (("--num-beams", "2", "--temperature", "0.7"), "temperature is 0.7, but beam search draws no token"),
        (("--num-beams", "2", "--top-k", "40"), "top_k is 40, but beam search draws no token"),
        (("--num-beams", "2", "--early-stopping", "maybe"), "early_stopping is 'maybe', expected False, True or"),
        (("--num-beams", "2", "--num-return-sequences", "3"), "num_return_sequences is 3, expected at most num_beams"),
        (("--length-penalty", "2"), "length_penalty is for beam search: give num_beams, 2 or more, too"),
        (("--min-new-tokens", "-1"), "min_new_tokens is -1, expected an integer of 0 or more"),
    ],
)
def test_a_wrong_end_or_control_is_named(capsys, arguments, message):
    assert message in fails(capsys, "generate", "The", *arguments)
