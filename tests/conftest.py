"""Settings of all tests."""

import gc
import os
import signal
from pathlib import Path

from hypothesis import HealthCheck, settings

# The same examples on each run, so that a machine's speed or luck decides nothing. .ci/run has more of them, by
# pytest --hypothesis-profile=thorough; to look for new ones: --hypothesis-profile=explore
unchecked = [HealthCheck.too_slow]
steady = settings(max_examples=10, derandomize=True, deadline=None, suppress_health_check=unchecked)
settings.register_profile("steady", steady)
settings.register_profile("thorough", steady, max_examples=100)
settings.register_profile("explore", max_examples=1000, deadline=None, suppress_health_check=unchecked)
settings.load_profile("steady")

# The matrices of the tests are small: threads of BLAS would wait for each other longer than they work, and many times
# longer on a machine that does something else besides. It is read when NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Where the tests run in the background, Ctrl-C is ignored, and so it would be in all that they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test asks the network, finds a model that somebody has in a cache, or sends somebody's token.
for name in ("NUMGPT_WEIGHTS", "HF_ENDPOINT", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE"):
    os.environ.pop(name, None)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = str(Path(__file__).parent / "no cache here")

# What pytest makes of thousands of tests stays to the end: no search for garbage need go through it again and again.
gc.disable()


def pytest_collection_finish():
    gc.freeze()
    gc.enable()
