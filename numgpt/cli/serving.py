"""numgpt serve: answer programs and browsers over HTTP."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path

from numgpt.cli.terminal import (
    Command,
    add_cache,
    add_precision,
    add_watermark,
    load_model,
    note,
    say,
    watermark_options,
)
from numgpt.errors import OptionError

SMALL = 30_000_000  # parameters below which one thread multiplies, and the other cores are left to the clients
EXAMPLES = """examples:
  numgpt serve                                            then open http://127.0.0.1:8000 in a browser
  numgpt serve -m gpt2 --port 8080
  numgpt serve -m gpt2-xl --weights int8 --cache float16
  curl http://127.0.0.1:8000/v1/completions --json '{"prompt": "Once upon a time", "max_tokens": 40}'
  NUMGPT_API_KEY=secret numgpt serve --host 0.0.0.0       for other machines: they need the key"""


def serve(args: argparse.Namespace) -> None:
    """numgpt serve: serve a model until Ctrl-C."""
    try:
        from numgpt.serve.app import Server
        from numgpt.serve.guard import access_for, is_loopback
        from numgpt.serve.running import bind, process_of
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn", "h11", "anyio"):
            raise
        raise OptionError('numgpt serve needs starlette and uvicorn: pip install "numgpt[serve]"') from None
    from numgpt.fast import stay_on_one_thread
    from numgpt.params import count_params

    for name, least in ("batch_size", 1), ("queue", 1), ("grace", 0):
        if getattr(args, name) < least:
            raise OptionError(f"{name} is {getattr(args, name)}, expected {least} or more")
    key = os.environ.get("NUMGPT_API_KEY") if args.api_key is None else args.api_key
    if key is not None and not (key and key.isascii() and key.isprintable() and " " not in key):
        raise OptionError("api_key is empty or has blanks or other characters than ASCII: expected letters and digits")
    if not is_loopback(args.host) and key is None and not args.insecure:
        raise OptionError(
            f"--host {args.host} lets other machines in: give them a key (--api-key, or NUMGPT_API_KEY in the "
            f"environment), or say --insecure"
        )
    options = {"cache_dtype": args.cache, **watermark_options(args)}
    listening = bind(args.host, args.port)
    model = load_model(args)
    if count_params(model.config) < SMALL:
        stay_on_one_thread()
    path = Path(args.model)
    name = args.name or (path.resolve().name if path.exists() else args.model)
    server = Server(model, name, options, batch_size=args.batch_size, queue=args.queue)
    access = access_for(args.host, args.allow_host, args.allow_origin, key)
    host, port = listening.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def started() -> None:
        if args.json:
            print(json.dumps({"model": name, "url": url}), flush=True)
        note(args, f"{name} at {url} (Ctrl-C ends it)")

    if not args.quiet and sys.stderr:
        logging.basicConfig(format="numgpt: %(message)s", stream=sys.stderr)
        logging.getLogger("numgpt.serve").setLevel(logging.INFO)
    process_of(server, access, args.grace, started).run(sockets=[listening])
    if not args.quiet:
        say("numgpt: ended")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `numgpt serve` takes."""
    add = parser.add_argument
    about_host = "the address to listen at (default: 127.0.0.1, which only this machine reaches)"
    add("--host", default="127.0.0.1", metavar="ADDRESS", help=about_host)
    add("--port", type=int, default=8000, metavar="N", help="0 for any that is free (default: 8000)")
    add("--name", metavar="NAME", help="what clients call the model (default: as -m has it; of a path its last part)")
    about_key = "what clients have to send as Authorization: Bearer KEY (default: NUMGPT_API_KEY of the environment)"
    add("--api-key", metavar="KEY", help=about_key)
    add("--insecure", action="store_true", help="let other machines in without a key")
    about_name = "a name by which clients may call this machine, beside localhost; may be repeated"
    add("--allow-host", action="append", default=[], metavar="NAME", help=about_name)
    about_origin = "pages of this origin may ask too, as in https://example.org; may be repeated"
    add("--allow-origin", action="append", default=[], metavar="ORIGIN", help=about_origin)
    add("--batch-size", type=int, default=8, metavar="N", help="texts that run at once (default: 8)")
    add("--queue", type=int, default=64, metavar="N", help="texts that may wait; 503 beyond (default: 64)")
    about_grace = "seconds that running texts have to end after Ctrl-C (default: 10)"
    add("--grace", type=float, default=10, metavar="S", help=about_grace)
    add_precision(parser)
    add_cache(parser)
    add_watermark(parser, "--watermark", "mark all texts, so that numgpt detect --key KEY knows them again")


COMMANDS = {
    "serve": Command(EXAMPLES, add_arguments, serve),
}
