"""Every error that numgpt raises on purpose.

    NumgptError
    ├── CheckpointError   a file, a config or a parameter tree that is not a GPT-2 we can trust
    ├── TokenError        text that can't be encoded, ids that are not in the vocabulary     (also a ValueError)
    ├── ContextError      more tokens than the model has positions for                       (also a ValueError)
    ├── OptionError       an argument out of its range                                       (also a ValueError)
    └── DownloadError     a file that could not be fetched whole                             (also an OSError)

Each message says what came, what was expected and what to do.
"""


class NumgptError(Exception):
    """The base of all errors that numgpt raises on purpose."""


class CheckpointError(NumgptError):
    """A checkpoint (file, config, parameters or tokenizer) is missing, damaged or of another kind."""


class TokenError(NumgptError, ValueError):
    """Text can't be encoded, or ids are not in the vocabulary."""


class ContextError(NumgptError, ValueError):
    """A sequence is longer than the model's context."""


class OptionError(NumgptError, ValueError):
    """An option is out of its range."""


class DownloadError(NumgptError, OSError):
    """A file could not be fetched whole and verified."""
