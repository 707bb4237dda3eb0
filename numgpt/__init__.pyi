# The public names for editors and type checkers, which can't read HOMES.
from numgpt import fast as fast
from numgpt.cache import KVCache as KVCache
from numgpt.config import Config as Config
from numgpt.decoding.batch import generate_batch as generate_batch
from numgpt.decoding.loop import generate as generate
from numgpt.decoding.text import complete as complete
from numgpt.decoding.text import stream as stream
from numgpt.errors import CheckpointError as CheckpointError
from numgpt.errors import ContextError as ContextError
from numgpt.errors import DownloadError as DownloadError
from numgpt.errors import NumgptError as NumgptError
from numgpt.errors import OptionError as OptionError
from numgpt.errors import TokenError as TokenError
from numgpt.fast.tokenizer import Tokenizer as Tokenizer
from numgpt.hub.loading import load as load
from numgpt.hub.loading import load_tokenizer as load_tokenizer
from numgpt.measure.choices import choose as choose
from numgpt.measure.scoring import score as score
from numgpt.model import Model as Model
from numgpt.model import forward as forward
from numgpt.pages.explanation import explain as explain
from numgpt.training.backward import loss_and_grads as loss_and_grads
from numgpt.training.gradient_check import check_gradient as check_gradient
from numgpt.training.run import train as train

__version__: str
__all__: list[str]
