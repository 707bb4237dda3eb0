"""The reader in C that stands beside the reference dumps: it compiles, and reads what was written."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.dumps import IDS, wide

from numgpt.trace import collect
from numgpt.verify.dump import write_trace

README = Path(__file__).parents[1] / "reference/README.md"
PROGRAM = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

%s
int main(int argc, char **argv) {
    long count;
    float *values = read_tensor(argv[1], argv[2], &count);
    if (!values) return 1;
    for (long i = 0; i < count; i++) printf("%%a\\n", values[i]);
    return 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_reader_in_c_reads_every_tensor_of_a_trace(tmp_path):
    [code] = re.findall(r"```c\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "reader.c").write_text(PROGRAM % code)
    subprocess.run(["cc", "-o", tmp_path / "reader", tmp_path / "reader.c"], check=True)
    traced = collect(IDS, wide())
    write_trace(tmp_path / "trace.safetensors", traced)

    def read(name):
        command = [tmp_path / "reader", tmp_path / "trace.safetensors", name]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)

    for name, x in traced.items():
        values = [float.fromhex(line) for line in read(name).stdout.split()]
        np.testing.assert_array_equal(values, x.reshape(-1))
    assert read("h.3.ln_1").returncode == 1
