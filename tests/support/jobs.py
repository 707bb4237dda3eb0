"""The input and the output of a job: lines of JSON."""

import json


def write_lines(path, *lines):
    """Write values as lines of JSON, and bytes as they are. Return the path."""
    path.write_bytes(b"".join(x if isinstance(x, bytes) else json.dumps(x).encode() + b"\n" for x in lines))
    return path


def read_results(path):
    """Return what each line holds."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]
