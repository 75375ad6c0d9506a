"""How sure a share of some images is."""

import math

from jaxsplit.errors import ConfigError

__all__ = ["wilson_interval"]

#: Two-sided 95 % quantile of the standard normal distribution.
_Z = 1.959963984540054


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion.

    (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n) with p = successes / n, n = trials. Unlike
    p ± z √(p(1-p)/n) it is right near 0 and 1 too, and never leaves them.

    Wilson, "Probable inference, the law of succession, and statistical inference", J. Am. Stat.
    Assoc. 22 (1927).

    Args:
      successes: 0 … trials.
      trials: at least 1.

    Returns:
      Its lower and upper end, as shares, 0 … 1.

    Raises:
      ConfigError: the counts are not as above.

    >>> low, high = wilson_interval(81, 263)
    >>> round(low, 4), round(high, 4)
    (0.2553, 0.3662)
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ConfigError(f"{successes} of {trials} is no proportion")
    share, square = successes / trials, _Z**2 / trials
    middle = share + square / 2
    reach = _Z * math.sqrt(share * (1 - share) / trials + (_Z / (2 * trials)) ** 2)
    # Where the share is 0 or 1, so is that end; rounding may miss it.
    low = 0.0 if successes == 0 else (middle - reach) / (1 + square)
    high = 1.0 if successes == trials else (middle + reach) / (1 + square)
    return low, high
