"""Numbers as text that a page holds: exact in the digits that are shown, and a third of what JSON would take.

An integer is written in digits of base 64, the most significant first. A number of which three digits are shown is
rounded to them here, once and from float64, and becomes the integer

    900 k + m        stands for        m 10^(k + low)

with m from 100 to 999, or for the smallest numbers (k = 0) from 0: a floating point of decimal digits. So what the page
shows is what the tensor holds, rounded once. float16, in the same room, would be rounded twice and show other last
digits. `unpackInteger`, `unpackDecimal` and `unpackSteps` in page.js are the inverse.
"""

import numpy as np

DIGITS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
WEIGHT = 2, -6  # characters and `low` of an attention weight: 0 to 1, and no sign
NUMBER = 3, -50  # of any other number; the highest bit is its sign


def pack_integers(x: np.ndarray, width: int) -> str:
    """Return integers as text, `width` characters each.

    x  [...] int, 0 to 64^width - 1

    >>> pack_integers(np.array([0, 1, 64, 4095]), width=2)
    'AAABBA__'
    """
    x = np.asarray(x, dtype=np.int64).ravel()
    assert not x.size or (x.min() >= 0 and x.max() < 64**width), "a number that does not fit"
    shifts = 6 * np.arange(width - 1, -1, -1)
    return np.frombuffer(DIGITS, dtype=np.uint8)[x[:, None] >> shifts & 63].tobytes().decode("ascii")


def decimal_codes(x: np.ndarray, low: int) -> np.ndarray:
    """Return 900 k + m for numbers of which three digits are kept.

    x  [...] float64, none below 0

    >>> decimal_codes(np.array([0.0, 0.000042, 0.12345, 1.0]), low=-6)
    array([   0,   42, 2823, 3700])
    """
    largest = np.maximum(x, 10.0 ** (low + 2))
    k = np.floor(np.log10(largest)).astype(np.int64) - 2 - low
    m = np.rint(x / 10.0 ** (k + low)).astype(np.int64)  # 1000, where rounding carries, is 100 of the next k
    return 900 * k + m


def pack_weights(x: np.ndarray) -> str:
    """Return attention weights as text, 2 characters each: three digits down to 0.0001, and then six places.

    >>> pack_weights(np.array([1.0, 0.25]))
    '50uG'
    """
    width, low = WEIGHT
    return pack_integers(decimal_codes(x, low), width)


def pack_numbers(x: np.ndarray) -> str:
    """Return any finite numbers as text, 3 characters each: a sign and three digits.

    >>> pack_numbers(np.array([0.0, -1.5]))
    'AAAqlW'
    """
    width, low = NUMBER
    negative = (x < 0).astype(np.int64) << (6 * width - 1)
    return pack_integers(negative + decimal_codes(np.abs(x), low), width)


def pack_steps(x: np.ndarray) -> str:
    """Return integers of which most are small as text: 1 character below 48, 2 below 1008, else 4.

    x  [...] int, 0 to 2^18 - 1
    Notes: a first character of 0 to 47 is the number; 48 to 62 are its upper digit, and one more follows; 63 says that
    three follow.

    >>> pack_steps(np.array([0, 47, 48, 1008]))
    'AvwA_APw'
    """
    x = np.asarray(x, dtype=np.int64).ravel()
    beyond = x - 48
    codes = np.stack([np.full_like(x, 63), x >> 12, x >> 6 & 63, x & 63], axis=1)
    two, one = x < 48 + 15 * 64, x < 48
    codes[two, 2:] = np.stack([48 + (beyond >> 6), beyond & 63], axis=1)[two]
    codes[one, 3] = x[one]
    kept = np.stack([~two, ~two, ~one, np.ones_like(one)], axis=1)
    return np.frombuffer(DIGITS, dtype=np.uint8)[codes[kept]].tobytes().decode("ascii")


def pack_scaled(x: np.ndarray, width: int) -> dict[str, str | float]:
    """Return numbers of one range as text, with its lower end and the step between two that differ.

    x  [...] float64, finite
    Returns text, low and step: number i is low + step i. The error is at most half a step, their range / 64^width.

    >>> pack_scaled(np.array([-1.0, 0.0, 62.0]), width=1)
    {'low': -1.0, 'step': 1.0, 'text': 'AB_'}
    """
    low, high = (float(x.min()), float(x.max())) if x.size else (0.0, 0.0)
    step = (high - low) / (64**width - 1) or 1.0
    return {"low": low, "step": step, "text": pack_integers(np.rint((x - low) / step), width)}
