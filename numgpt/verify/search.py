"""Which mistake explains the first difference: each of causes.py is tried, in every layer and in each alone."""

from collections.abc import Iterable, Iterator
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np

from numgpt.model import output_head
from numgpt.params import count_params
from numgpt.trace import layer_and_base, trace_shapes
from numgpt.verify.causes import OUTPUT, USUAL_EPS, all_causes, wrong_epsilon
from numgpt.verify.foreign import Found
from numgpt.verify.noise import WIDEN, Comparison, Gap, gap_between, noise_of, rounding, widest
from numgpt.verify.passes import (
    NORMS,
    QKV,
    Attempt,
    Cause,
    Rounded,
    Site,
    Stop,
    attempts,
    attempts_in_one,
    is_in,
    norm_input,
    run,
    words_in_all,
)
from numgpt.verify.solve import AXES, search_eps, solve_eps, solved_causes
from numgpt.verify.solve_site import causes_at

FIRSTS, FEW_FIRSTS = 12, 1  # mistakes that are taken for one of two, in a small model and in a large one
LARGE = 3e7  # parameters
FAINT = 0.1  # of the first difference: what makes less in all layers is not tried in one, which would make still less
COARSE_PASSES = 2  # with rounding at random, of a mistake that rounds: values on the edge between two go either way
COLUMNS = 512  # of the logits, that are enough to see whether a mistake lessens their difference


class Leftover(NamedTuple):
    """What a mistake leaves of the difference of a tensor."""

    gap: Gap
    noise: Gap  # in the precision of the dump

    @property
    def over_noise(self) -> float:
        return self.gap.over(self.noise)

    @property
    def squares(self) -> float:
        """What is left in squares of the noise: 1 where it is nothing but rounding."""
        return (self.gap.rms / self.noise.rms) ** 2 if self.gap.rms else 0.0


class Fit(NamedTuple):
    """How well a mistake explains a dump."""

    words: str
    explained: int  # how many tensors, from the first, come out as in the dump
    over_noise: float  # what is left of the first difference
    squares: float  # the mean of what is left of those explained, in squares of the noise
    then: str | None  # the first tensor that it does not explain
    likeness: float | None  # of a mistake that rounds: of the difference that it makes to that of the dump
    attempt: Attempt

    @property
    def explains(self) -> bool:
        """Whether it brings the first difference down to the noise."""
        return self.over_noise <= WIDEN


class Search:
    """The search for the mistake behind the first tensor of a dump that differs."""

    def __init__(self, comparison: Comparison, first: str) -> None:
        self.comparison, self.first = comparison, first
        self.config, self.found, self.truth = comparison.config, comparison.found, comparison.truth
        self.fits: list[Fit] = []
        self.lessened: list[tuple[float, Attempt]] = []  # what part of the difference each leaves, made in all layers
        self.loudness: dict[str, float] = {}  # words -> what part of the difference it makes, in all layers

    def explain(self) -> list[Fit]:
        """Return the mistakes that explain the first difference, best first; none if none does.

        What touches a tensor behind the last that agrees is tried first, then the rest: few dumps need it.
        """
        near: list[Cause] = []
        far: list[Cause] = []
        window, layers = self.window(), self.layers()
        if self.first == "logits":  # what was done to them alone is quickly tried
            for some in (Attempt(cause, is_in, cause.words) for cause in OUTPUT), self.solved():
                self.try_all(some)
                if any(map(self.is_whole, self.fits)):
                    return likeliest(self.fits)
        starts, T = self.starts(), len(self.comparison.ids)
        for cause in all_causes(self.config, self.comparison.params64, self.solved_eps(), starts, T):
            (near if cause.patch or cause.before or window & {*cause.edits, *cause.shown} else far).append(cause)
        for causes in near, far:
            self.try_all(attempt for cause in causes for attempt in attempts(cause, self.config))
            if any(map(self.is_whole, self.fits)):
                break
            heard = (cause for cause in causes if self.loudness.get(cause.words, np.inf) >= FAINT)
            self.try_all(attempt for cause in heard for attempt in attempts_in_one(cause, self.config, layers))
            if not any(fit.explains for fit in self.fits):
                self.try_all(self.solved())
            if any(fit.explains for fit in self.fits):
                break
        if not any(fit.explains and fit.likeness is None for fit in self.fits):  # what rounds may look like it
            self.try_all(attempts(wrong_epsilon(self.config, search_eps(self.left_by_eps)), self.config))
        return likeliest(self.fits) if any(fit.explains for fit in self.fits) else []

    def explain_by_two(self) -> tuple[Attempt, Fit] | None:
        """Return two mistakes that explain the first difference together, where it is of the logits alone.

        Each of those that lessen it most is taken as given in turn, and all others are tried on top of it.
        """
        firsts = [attempt for _, attempt in sorted(self.lessened, key=lambda pair: pair[0])]
        found: list[tuple[Attempt, Fit]] = []
        for first in firsts[: FIRSTS if count_params(self.config) < LARGE else FEW_FIRSTS]:
            behind = Search(self.comparison.beyond(first), self.first)
            causes = all_causes(
                self.config, behind.comparison.params64, None, behind.starts(), len(behind.comparison.ids)
            )
            behind.try_all(Attempt(cause, is_in, words_in_all(cause, self.config)) for cause in causes)
            good = [fit for fit in behind.fits if fit.explains]
            if good:
                found.append((first, min(good, key=lambda fit: fit.squares)))
                if behind.is_whole(found[-1][1]):
                    break
        return min(found, key=lambda pair: pair[1].squares, default=None)

    def nearest(self) -> Fit | None:
        """Return what leaves least of the first difference, of what was tried and lessened it."""
        return min(self.fits, key=lambda fit: fit.over_noise, default=None)

    def is_whole(self, fit: Fit) -> bool:
        """Whether a mistake explains the whole dump, and so well that it needs no rival."""
        return fit.explained == len(self.found) and fit.squares <= 9.0  # squares of the noise

    # --- where to look

    def last_agreed(self) -> str | None:
        """Return the tensor of the dump before the first that differs."""
        names = list(self.found)
        return names[names.index(self.first) - 1] if names[0] != self.first else None

    def window(self) -> set[str]:
        """Return what is computed after the last tensor that agrees, up to the first that differs; without layers."""
        names, last = list(trace_shapes(self.config, 1)), self.last_agreed()
        start = names.index(last) + 1 if last else 0
        window = {layer_and_base(name)[1] for name in names[start : names.index(self.first) + 1]}
        return window | {*QKV, "attn.scores"} if last and self.found[last].veiled else window

    def layers(self) -> range:
        """Return the layers in which a mistake can be that shows in the first that differs, but in none before it."""
        last = self.last_agreed()
        start = layer_and_base(last)[0] if last else 0
        end = layer_and_base(self.first)[0]
        if end is None:
            end = 0 if self.first == "embed" else self.config.n_layer - 1
        return range(start or 0, end + 1)

    def starts(self) -> list[int]:
        """Return from which positions on a mistake may be made that shows in some of them: the first, and one before.

        Where it begins it may make nothing worse yet, as where a token sees itself alone.
        """
        theirs, ours = self.comparison.both(self.first)
        if theirs.shape != ours.shape or theirs.ndim not in AXES:
            return []
        axis = AXES[theirs.ndim].index("position")
        with np.errstate(invalid="ignore"):
            apart = np.nan_to_num(abs(theirs - ours), nan=0.0, posinf=np.inf)
        worst = apart.max(tuple(i for i in range(theirs.ndim) if i != axis))
        noise = self.comparison.noise[self.first].times(self.comparison.scale).largest
        first = int((worst > WIDEN * noise).argmax())
        return [start for start in (first, first - 1) if start > 0]

    # --- what is computed from the tensors

    def solved(self) -> Iterator[Attempt]:
        """Yield what the first tensor that differs says by itself, as made in that tensor."""
        layer, base = layer_and_base(self.first)
        theirs, ours = self.comparison.both(self.first)
        at_site = (
            causes_at(base, theirs, self.site(), self.comparison.params64)
            if layer is not None or base == "embed"
            else ()
        )
        for cause in (*at_site, *solved_causes(base, theirs, ours, self.config)):
            yield Attempt(cause, partial(is_in, layer=layer, base=base), f"{self.first}: {cause.words}")

    def solved_eps(self) -> float | None:
        """Return the epsilon that gives the first difference, if that is a layer norm."""
        base = layer_and_base(self.first)[1]
        if base not in NORMS:
            return None
        site = self.site()
        return solve_eps(norm_input(base, site), self.found[self.first].x, **site.p[base])

    def leaning(self) -> str:
        """Say what makes the rows of a layer norm larger, or smaller, by less than what rounding does to each number.

        1 / sqrt(var + eps') = (1 + growth) / sqrt(var + eps),   so   eps' = eps - 2 growth / mean(1 / (var + eps))
        """
        ours, base = self.comparison, layer_and_base(self.first)[1]
        eps, growth = self.config.layer_norm_epsilon, ours.growth(self.first)
        share = 2 / float(np.mean(1 / (norm_input(base, self.site()).var(-1) + eps)))
        other, error = eps - share * growth, 3 * share * ours.noise_of_growth(self.first)
        nearest = min((guess for guess in USUAL_EPS if guess not in (0, eps)), key=lambda guess: abs(guess - other))
        is_near = abs(nearest - other) <= error
        how = f"its rows are {growth:.1g} of themselves larger, {ours.lean(self.first):.0f} times what rounding does"
        if not is_near and not 0 <= other <= 1:
            return f"{self.first} is {1 + growth:.9g} times ours ({how})"
        about = f"{nearest:g}" if is_near else f"about {other:.1g}"
        return f"wrong epsilon in the layer norm: {about} instead of {eps:g}: {self.first} ({how})"

    def left_by_eps(self, eps: float) -> float:
        """Return how much of the first difference is left with another epsilon in all layer norms."""
        made = self.run(Attempt(wrong_epsilon(self.config, eps), is_in, ""))
        return self.comparison.gap(self.first, made[self.first]).rms

    def site(self) -> Site:
        """Return the place in our pass of the first tensor that differs: what it is computed from."""
        sites: list[Site] = []

        def look(site: Site) -> np.ndarray:
            sites.append(site)
            return site.value

        layer, base = layer_and_base(self.first)
        look_there = Attempt(Cause("", {base: look}), partial(is_in, layer=layer, base=base), "")
        self.run(look_there, stop=lambda name, x: name == self.first)
        return sites[0]

    # --- one attempt

    def try_all(self, attempts: Iterable[Attempt]) -> None:
        """Add how well each fits to `fits`, of those that lessen the first difference by much."""
        with np.errstate(all="ignore"):  # a mistake may make numbers that overflow
            for attempt in attempts:
                if self.is_promising(attempt) and (fit := self.fit(attempt)):
                    self.fits.append(fit)

    def run(
        self, attempt: Attempt, single: bool = False, stop: Stop | None = None, rounded: Rounded | None = None
    ) -> dict[str, np.ndarray]:
        """Run the model with a mistake in it: in float64, or in float32 where it is a single-precision pass."""
        ours = self.comparison
        params, (cause, where, _) = ours.params32 if single else ours.params64, attempt
        return run(ours.ids, params, self.config, self.found, cause, where, rounded, stop, ours.given)

    def is_promising(self, attempt: Attempt) -> bool:
        """Look quickly whether a mistake lessens the first difference by much, or makes one that is like it.

        The pass ends at the first difference, or before it where a tensor that agreed does not with the mistake.
        """
        ours, cause = self.comparison, attempt.cause
        slack = 30.0  # times WIDEN: the noise of a pass with the mistake is not measured yet

        def stop(name: str, x: np.ndarray) -> bool:
            return name == self.first or (not cause.coarse and ours.over_noise(name, x) > slack * WIDEN)

        if self.first == "logits" and not cause.coarse and self.reads_the_same_head(attempt):
            theirs, right, made = self.some_logits(attempt)
        else:
            found = self.run(attempt, single=ours.scale >= 1 and not cause.coarse, stop=stop)
            if self.first not in found:
                return False
            theirs, right = self.comparison.both(self.first)
            made = found[self.first][-len(theirs) :] if self.first == "logits" else found[self.first]
        pairs = (theirs, right), (theirs, made), (made, right)
        before, after, change = (gap_between(self.first, x, y).rms for x, y in pairs)
        if attempt.where is is_in:
            part = change / before if np.isfinite(before) else np.inf
            self.loudness[cause.words] = max(part, self.loudness.get(cause.words, 0.0))
        if cause.coarse:  # it can't be met exactly: values on an edge between two numbers go either way
            return self.likeness(found[self.first]) >= 0.6
        if after < 0.95 * before and attempt.where is is_in:
            self.lessened.append((after / before, attempt))
        return after <= 0.3 * before if np.isfinite(before) else bool(np.isfinite(after))

    def reads_the_same_head(self, attempt: Attempt) -> bool:
        """Whether some columns of the logits tell of a mistake: it leaves the output head and the text as they are."""
        cause = attempt.cause
        return not (cause.before or "logits" in cause.edits or (cause.patch and layer_of(attempt) is None))

    def some_logits(self, attempt: Attempt) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return some columns of the logits: as the dump has them, as they are right, and with a mistake.

        A mistake in a single layer begins there, with what the pass without it gives that layer to read. Where the
        weights of a large model are read again for each mistake, that makes a third of the reading.
        """
        params, found, right = self.some
        layer = layer_of(attempt)
        resume = (layer, self.depths[layer]) if layer and len(found) == 1 else None
        ours, theirs = self.comparison, found["logits"].x
        with_it = run(
            ours.ids, params, self.config, found, attempt.cause, attempt.where, given=ours.given, resume=resume
        )["logits"]
        return theirs, right[-len(theirs) :], with_it[-len(theirs) :]

    @cached_property
    def some(self) -> tuple[dict[str, Any], dict[str, Found], np.ndarray]:
        """What a pass needs for some columns of the logits alone: parameters, dump; and what is right of them."""
        ours = self.comparison
        params = ours.params32 if ours.scale >= 1 else ours.params64
        head = output_head(params)
        columns = np.unique(np.linspace(0, len(head) - 1, COLUMNS).astype(int))
        logits = self.found["logits"]
        found = {**self.found, "logits": logits._replace(x=logits.x[:, columns])}
        return {**params, "lm_head": head[columns]}, found, self.truth["logits"][:, columns]

    @cached_property
    def depths(self) -> list[np.ndarray]:
        """What each layer reads in a pass without another mistake."""
        read: list[np.ndarray] = []

        def look(site: Site) -> np.ndarray:
            read.append(site.value)
            return site.value

        params, found, _ = self.some
        cause = Cause("", {"embed": look, "resid_post": look})
        run(self.comparison.ids, params, self.config, found, cause, given=self.comparison.given)
        return read

    def fit(self, attempt: Attempt) -> Fit | None:
        """Return how well a mistake explains the dump; None if a tensor before the first difference parts with it."""
        in64, passes = self.run(attempt), [self.run(attempt, single=True)]
        if attempt.cause.coarse:
            passes += [self.run(attempt, rounded=rounding(seed)) for seed in range(COARSE_PASSES)]
        leftovers: dict[str, Leftover] = {}
        then = None
        for name in in64:
            leftovers[name] = self.leftover(name, in64[name], [x[name] for x in passes], attempt.cause.coarse)
            if leftovers[name].over_noise > WIDEN:
                then = name
                break
        if self.first not in leftovers:
            return None
        explained = [leftover.squares for name, leftover in leftovers.items() if name != then]
        likeness = self.likeness(in64[self.first]) if attempt.cause.coarse else None
        return Fit(
            attempt.words,
            explained=len(explained),
            over_noise=leftovers[self.first].over_noise,
            squares=float(np.mean(explained or np.inf)),
            then=then,
            likeness=likeness,
            attempt=attempt,
        )

    def leftover(self, name: str, in64: np.ndarray, passes: list[np.ndarray], coarse: bool) -> Leftover:
        """Return what is left of the difference of a tensor, from a pass with a mistake and others that round."""
        ours = self.comparison
        noise = widest(noise_of(name, passes, in64), ours.noise[name])
        if coarse:  # where few values go the other way, they may leave 2 % of the difference
            allowed = ours.gap(name, self.truth[name]).times(0.02)
            noise = Gap(*map(max, noise, allowed))
        return Leftover(ours.gap(name, in64), noise.times(ours.scale))

    def likeness(self, x: np.ndarray) -> float:
        """Return the correlation of two differences from what is right, of x and of the first tensor that differs."""
        theirs, right = self.found[self.first].x, self.truth[self.first]
        known = np.isfinite(right)
        made, found = ((y - right)[known] if y.shape == right.shape else np.zeros(0) for y in (x, theirs))
        if made.shape != found.shape or not made.any() or not np.isfinite(found).all():
            return 0.0
        return float((made * found).sum() / np.sqrt((made * made).sum() * (found * found).sum()))


def layer_of(attempt: Attempt) -> int | None:
    """Return the one layer that a mistake is made in; None for one of all, or outside of them."""
    return getattr(attempt.where, "keywords", {}).get("layer")


# --- the verdict


def likeliest(fits: list[Fit]) -> list[Fit]:
    """Return the mistakes that explain most, best first; of those that do so equally well, as they are listed."""
    good = [fit for fit in fits if fit.explains]
    good = [fit for fit in good if fit.likeness is None] or good
    most = max(fit.explained for fit in good)
    good = [fit for fit in good if fit.explained == most]
    if good[0].likeness is not None:
        return [max(good, key=lambda fit: fit.likeness or 0)]
    least = min(fit.squares for fit in good)
    good = [fit for fit in good if fit.squares <= 4.0 * (1 + least)]  # what leaves more is no rival
    equal = 1.1 * least + 0.1  # what leaves less is as good as the best
    good.sort(key=lambda fit: max(fit.squares, equal))
    return list({fit.words: fit for fit in reversed(good)}.values())[::-1]


def sentence(fit: Fit) -> str:
    """Say how well a mistake explains a dump."""
    remaining = f"with it the difference falls to {fit.over_noise:.2g} times the noise"
    if fit.likeness is not None and fit.likeness < 0.99:
        remaining = f"the difference that it makes correlates with that of the dump by {fit.likeness:.2f}"
    then = f"; behind it {fit.then} differs first, by another" if fit.then else ""
    return f"{fit.words} ({remaining}{then})"
