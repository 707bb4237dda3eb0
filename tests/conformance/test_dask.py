"""A job on a Dask cluster of this machine, whose processes are killed, makes the file that is made without one."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from distributed import Client
from support.checkpoints import SIZES, TOKENS, hub_tensors, write_checkpoint, write_tokenizer

import numgpt
from numgpt.apps import dask
from numgpt.cli import main as cli

ROOT = Path(numgpt.__file__).parent.parent
WORDS = ["Once upon a time", "The king", "", "A fox and a wolf", "There was"]
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def start(*arguments, env=(), **options):
    """Start a module of Python in a process that can import numgpt."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **dict(env)}
    return subprocess.Popen([sys.executable, "-m", *map(str, arguments)], env=env, **options)


def wait_until(condition, process):
    """Wait for what a process will do. The minute guards against a hang, and decides nothing else."""
    for _ in range(6000):
        if condition():
            return
        assert process.poll() is None, "the process ended before"
        time.sleep(0.01)
    raise AssertionError("a minute has gone by")


@pytest.fixture
def cluster(tmp_path):
    """A function that starts a scheduler and 2 workers, and returns the address."""
    file, processes = tmp_path / "scheduler.json", []

    def start_cluster(*how, workers=2, env=()):
        where = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", file)
        processes.append(start("distributed.cli.dask_scheduler", *where, env=env, **QUIET))
        wait_until(file.exists, processes[0])
        address = json.loads(file.read_text())["address"]
        for _ in range(workers):
            arguments = (address, "--nthreads", "1", "--no-dashboard", *how)
            processes.append(start("distributed.cli.dask_worker", *arguments, env=env, **QUIET))
        with Client(address) as client:
            wait_until(lambda: len(client.nthreads()) == workers, processes[0])
        return address

    yield start_cluster
    for process in reversed(processes):
        process.terminate()
        process.wait(60)


def kill_a_worker(address):
    """Kill a worker as the kernel does, not the nanny that watches it."""
    with Client(address) as client:
        os.kill(next(iter(client.run(os.getpid).values())), 9)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{WORDS[i % 5]}{i}", "id": i}) + "\n" for i in range(200)))
    return path


@pytest.fixture
def undisturbed(source, tmp_path):
    """The output of the job without Dask, with another number of threads: sums are rounded otherwise."""
    output = tmp_path / "undisturbed.jsonl"
    assert start(*job(source, output), env={"OMP_NUM_THREADS": "2"}).wait(300) == 0
    return output.read_bytes()


def job(source, output, *arguments):
    return ("numgpt", "generate", "--input", source, "--output", output, "-n", "20", "-q", *arguments)


def count_lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_a_worker_is_killed(cluster, source, undisturbed, tmp_path):
    address, output = cluster("--no-nanny"), tmp_path / "out.jsonl"
    process = start(*job(source, output, "--dask", address))
    wait_until(lambda: count_lines(output) >= 40, process)
    kill_a_worker(address)
    assert process.wait(300) == 0
    assert output.read_bytes() == undisturbed
    with Client(address) as client:
        [cache] = client.run(loads).values()
        assert (cache.misses, cache.currsize) == (1, 1)  # the model was loaded once
        assert cache.hits > 5


def loads():
    return dask._load.cache_info()


loads.__module__ = "__main__"  # so that it travels as code, which workers can't import from here


def test_a_worker_is_killed_and_then_the_client(cluster, source, undisturbed, tmp_path):
    address, output = cluster(), tmp_path / "out.jsonl"
    process = start(*job(source, output, "--dask", address, "--batch-size", "3"))
    wait_until(lambda: count_lines(output) >= 20, process)
    kill_a_worker(address)
    wait_until(lambda: count_lines(output) >= 60, process)
    process.kill()
    process.wait()
    assert 60 <= count_lines(output) < 200
    assert start(*job(source, output, "--dask", address)).wait(300) == 0
    assert output.read_bytes() == undisturbed


def test_lines_that_kill_workers_are_given_up_and_told(cluster, source, undisturbed, tmp_path):
    address = cluster("--no-nanny", env={"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"})
    output = tmp_path / "out.jsonl"
    process = start(*job(source, output, "--dask", address), stderr=subprocess.PIPE, text=True)
    wait_until(lambda: count_lines(output) >= 40, process)
    kill_a_worker(address)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    told = err.splitlines()[:-1]
    assert told
    assert all("the workers that tried it died: the same command tries anew" in line for line in told)
    assert count_lines(output) == 200 - len(told)
    assert start(*job(source, output)).wait(300) == 0  # without Dask, which changes nothing
    assert output.read_bytes() == undisturbed


def test_workers_load_the_model_as_the_command_says(cluster, source, tmp_path):
    address = cluster()
    how = ("--weights", "int8", "--set", "n_head=4", "-n", "3", "--batch-size", "50")
    assert start(*job(source, tmp_path / "alone.jsonl", *how)).wait(300) == 0
    assert start(*job(source, tmp_path / "out.jsonl", *how, "--dask", address)).wait(300) == 0
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()


def test_scores_are_the_same_too(cluster, source, tmp_path):
    source.write_text("".join(json.dumps({"text": f"{WORDS[i % 5]} {i}"}) + "\n" for i in range(50)))
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    score = ("numgpt", "score", "--bos", "--input", source, "--output")
    assert start(*score, here).wait(300) == 0
    address = cluster("--no-nanny")
    assert start(*score, there, "--dask", address).wait(300) == 0
    assert there.read_bytes() == here.read_bytes()


def test_workers_with_another_model_are_refused(cluster, source, tmp_path, capsys, monkeypatch):
    for seed, place in enumerate(("ours", "theirs")):
        folder = tmp_path / place / "mine"
        sizes = {**SIZES, "vocab_size": TOKENS, "eos_token_id": TOKENS - 1}
        write_checkpoint(folder, hub_tensors(TOKENS, seed=seed), {"model_type": "gpt2", **sizes})
        write_tokenizer(folder)
    address = cluster("--no-nanny", workers=1, env={"NUMGPT_WEIGHTS": str(tmp_path / "theirs")})
    monkeypatch.setenv("NUMGPT_WEIGHTS", str(tmp_path / "ours"))
    output = tmp_path / "out.jsonl"
    assert cli.main([*map(str, job(source, output, "-m", "mine", "--dask", address)[1:])]) == 1
    assert "mine is another model than on the machine that sends the job" in capsys.readouterr().err


def test_without_a_scheduler_or_workers_there_is_an_error(cluster, source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(dask, "SECONDS", 1)
    output = tmp_path / "out.jsonl"
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        assert cli.main([*map(str, job(source, output, "--dask", address)[1:])]) == 1
    assert f"--dask {address}: no scheduler answers" in capsys.readouterr().err
    assert cli.main([*map(str, job(source, output, "--dask", "nonsense")[1:])]) == 1
    assert "--dask nonsense: no scheduler answers" in capsys.readouterr().err
    address = cluster(workers=0)
    assert cli.main([*map(str, job(source, output, "--dask", address)[1:])]) == 1
    assert f"--dask {address}: has no workers" in capsys.readouterr().err
