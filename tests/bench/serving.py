"""What a server does under load: how much clients gain who ask at once, when a new one hears its first token, and
whether anything is left behind by many who come, go and hang up.

    pip install -e ".[serve]"
    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python tests/bench/serving.py [-m MODEL] [--minutes 10] [--clients 100]

The server is a process of its own. All figures are ratios within one run; that texts are the same is a fact.
"""

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from typing import Any

TEXT = "Once upon a time there was a king who had a daughter, and she was the fairest of all. One day "


class Server:
    """A server of a model, and how much memory its process takes."""

    def __init__(self, model: str, *flags: str) -> None:
        command = [sys.executable, "-m", "numgpt", "serve", "-m", model, "--port", "0", "--json", "-q", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.port = int(json.loads(self.process.stdout.readline())["url"].rpartition(":")[2])

    def memory(self) -> float:
        """In MiB, as Linux has it."""
        with open(f"/proc/{self.process.pid}/status", encoding="utf-8") as file:
            return int(re.findall(r"VmRSS:\s+(\d+)", file.read())[0]) / 1024


@contextmanager
def serving(model: str, *flags: str) -> Any:
    server = Server(model, *flags)
    try:
        yield server
    finally:
        server.process.terminate()
        assert server.process.wait(60) == 0


async def ask(
    port: int, fields: dict[str, Any], leave_after: int | None = None, reads: bool = False
) -> tuple[int, list[float], list[Any]]:
    """POST a completion. Return the status, when each part of the answer came, and what came: events, or one answer.

    leave_after  hang up after so many parts
    reads        read what came, which takes this process time
    """
    body = json.dumps(fields).encode()
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
    times, found, got = [], [], 0
    try:
        status = int((await reader.readuntil(b"\r\n\r\n")).split()[1])
        held = b""
        while leave_after is None or got < leave_after:
            part = await reader.read(65536)
            if not part:
                break
            got += 1
            held += part
            times += [time.perf_counter() - start] * part.count(b"data: {")
        if reads:
            found = re.findall(rb"(?m)^(?:data: )?(\{.*\})\r?$", held)
        return status, times, [json.loads(one) for one in found]
    finally:
        writer.close()


def story(seed: int, n: int, **more: Any) -> dict[str, Any]:
    return {"prompt": TEXT, "max_tokens": n, "seed": seed, "temperature": 0.8, "top_k": 40, "stream": True, **more}


async def gain(port: int, n: int, clients: int = 8) -> float:
    """Tokens a second of clients that stream at once, by those of the same texts one after the other."""

    async def at_once() -> float:  # until the first of them has come to its end
        answers = await asyncio.gather(*(ask(port, story(seed, n)) for seed in range(clients)))
        end = min(times[-1] for _, times, _ in answers)
        return sum(t <= end for _, times, _ in answers for t in times) / end

    async def in_turn() -> float:
        start, count = time.perf_counter(), 0
        for seed in range(clients):
            count += len((await ask(port, story(seed, n)))[1])
        return count / (time.perf_counter() - start)

    await at_once()
    return statistics.median([await at_once() / await in_turn() for _ in range(3)])


async def first_token(port: int, n: int) -> tuple[float, float]:
    """When a client hears its first token beside seven others, in passes of theirs, less its own prefill.

    Returns the median, and the worst.
    """
    alone = statistics.median([(await ask(port, story(k, 1)))[1][0] for k in range(9)])
    found = []
    for k in range(6):
        others = [asyncio.ensure_future(ask(port, story(seed, n))) for seed in range(7)]
        await asyncio.sleep(0.4)
        came = (await ask(port, story(k, 1)))[1][0]
        all_times = [times for _, times, _ in await asyncio.gather(*others)]
        passes = statistics.median((times[-1] - times[0]) / max(1, len(times) - 1) for times in all_times)
        found.append((came - alone) / passes)
    return statistics.median(found), max(found)


async def crowd(server: Server, clients: int, minutes: float) -> dict[str, Any]:
    """Many clients who ask at random, of whom a third hangs up. Every text that ends is asked for once more, alone."""
    end, memory = time.monotonic() + 60 * minutes, []
    texts: dict[str, str] = {}
    counts = {"finished": 0, "busy": 0, "hung up": 0}

    async def client(dice: random.Random) -> None:
        while time.monotonic() < end:
            start = dice.randrange(len(TEXT) // 2)
            fields = story(
                dice.randrange(1 << 32), dice.randrange(1, 120), prompt=TEXT[start : start + dice.randrange(1, 99)]
            )
            fields |= dice.choice([{}, {"temperature": 0}, {"top_p": 0.9, "top_k": 0}, {"presence_penalty": 0.5}])
            fields["stream"] = dice.random() < 0.7
            leaves = dice.randrange(1, 20) if dice.random() < 1 / 3 else None
            if leaves and not fields["stream"]:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(ask(server.port, fields, leaves), dice.random() / 5)
                counts["hung up"] += 1
                continue
            status, _, found = await ask(server.port, fields, leaves, reads=leaves is None)
            if leaves:
                counts["hung up"] += 1
            elif status == 503:
                counts["busy"] += 1
                await asyncio.sleep(dice.random())
            else:
                counts["finished"] += 1
                texts[json.dumps(fields)] = "".join(c["text"] for event in found for c in event["choices"])

    async def watch() -> None:
        while time.monotonic() < end:
            memory.append(server.memory())
            await asyncio.sleep(1)

    await asyncio.gather(watch(), *(client(random.Random(k)) for k in range(clients)))
    await asyncio.sleep(1)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    left = json.loads((await reader.read()).rpartition(b"\r\n")[2])
    writer.close()
    others = 0
    sample = random.Random(0).sample(sorted(texts), min(len(texts), 400))
    for fields in sample:
        _, _, found = await ask(server.port, json.loads(fields), reads=True)
        others += "".join(c["text"] for event in found for c in event["choices"]) != texts[fields]
    quarter = max(1, len(memory) // 4)
    grown = statistics.median(memory[-quarter:]) - statistics.median(memory[quarter : 2 * quarter])
    alike = f"{len(sample) - others} of {len(sample)}"
    return {**counts, "left": left, "alone the same": alike, "memory, MiB": max(memory), "grown, MiB": round(grown, 1)}


async def main() -> None:
    parser = argparse.ArgumentParser(description="What a server does under load.")
    parser.add_argument("-m", "--model", default="storyteller")
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=200, help="of each text, for the figures of speed")
    args = parser.parse_args()
    with serving(args.model) as server:
        print(f"8 at once, by one after the other: {await gain(server.port, args.tokens):.2f}", flush=True)
        median, worst = await first_token(server.port, args.tokens)
        print(f"first token beside 7, less its own prefill: {median:.2f} passes, at worst {worst:.2f}", flush=True)
        for name, value in (await crowd(server, args.clients, args.minutes)).items():
            print(f"{name}: {value}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")
    asyncio.run(main())
