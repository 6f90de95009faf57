"""The objective of a fit and its derivatives, for many parameter vectors at once.

Σ_i w_i Huber_δ(r_i) with r_i = log L̂_i - log L_i, a SUM (arXiv 2512.23407, section 3.2, eq. 9; Hoffmann et al., arXiv
2203.15556, eq. 3). With P_k = exp(X_k θ) / Σ_l exp(X_l θ), J = Σ_k P_k X_k and psi = r clipped to ±δ:

- gradient: Σ_i w_i psi_i J_i;
- Hessian: Σ_i w_i ([|r_i| <= δ] J_i J_iᵀ + psi_i (Σ_k P_ki X_ki X_kiᵀ - J_i J_iᵀ)), exact wherever no |r_i| = δ.

Both are products of matrices that depend on the runs alone with weights that depend on θ, so a batch of θ costs few
calls. Everything is float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np

from scaling.runs import FloatArray, IntArray

DELTA = 1e-3
"""δ of the Huber loss, in nats per nat: residuals are of log losses."""
CACHE_NUMBERS = 1 << 15
"""How much of a batch is done at once: θ's times runs, so that a core's second-level cache holds a few such arrays."""


class Slope(NamedTuple):
    """Of S parameter vectors."""

    value: FloatArray
    """(S,)"""
    gradient: FloatArray
    """(S, p)"""


class Curve(NamedTuple):
    """Of S parameter vectors."""

    value: FloatArray
    """(S,)"""
    gradient: FloatArray
    """(S, p)"""
    hessian: FloatArray
    """(S, p, p)"""
    metric: FloatArray
    """(S, p, p), Σ_i w_i min(1, δ / |r_i|) J_i J_iᵀ: what reweighted least squares takes for the Hessian. No Huber loss
    bends more than its parabola through r and -r does."""


class _Pair(NamedTuple):
    """The part of the Hessian that terms k and l make together."""

    one: int
    other: int
    entries: IntArray
    """Positions of its non-zero entries in the flat (p²,) Hessian."""
    products: FloatArray
    """These entries of X_k X_lᵀ (plus its transpose where k < l), by run: (n, entries)."""


class _Room(NamedTuple):
    """Arrays (S, n) that all parts of a batch are worked out in. New ones for each part cost more than the arithmetic,
    since the system clears their pages, and threads wait for each other there.
    """

    terms: list[FloatArray]
    shares: list[FloatArray]
    total: FloatArray
    residual: FloatArray
    pull: FloatArray
    within: FloatArray
    spare: FloatArray

    def first(self, count: int) -> "_Room":
        """The same with fewer θ."""
        terms, shares = ([array[:count] for array in arrays] for arrays in (self.terms, self.shares))
        return _Room(terms, shares, *(array[:count] for array in self[2:]))


@dataclass(frozen=True, eq=False)
class Objective:
    """The objective for one form on one set of runs. Weights are (n,) or (S, n), or None for ones."""

    x: FloatArray
    """(K, n, p), `Form.design`."""
    y: FloatArray
    """(n,), log L."""
    delta: float = DELTA
    offset: FloatArray | None = None
    """(K, n), added to X_k θ: what parameters that are held fixed contribute."""

    def fixed(self, parameter: int, value: float) -> "Objective":
        """The same with one parameter held at a value: of the other p - 1."""
        held = self.x[:, :, parameter] * value
        offset = held if self.offset is None else self.offset + held
        return replace(self, x=np.delete(self.x, parameter, axis=2), offset=offset)

    def residuals(self, theta: FloatArray) -> FloatArray:
        """Residuals r (S, n) for θ (S, p)."""
        return self._terms(theta, self._room(len(theta)))[2]

    def shares(self, theta: FloatArray) -> FloatArray:
        """P, each term's share of L̂: (K, S, n) for θ (S, p)."""
        terms, total, _ = self._terms(theta, self._room(len(theta)))
        return np.stack([term / total for term in terms])

    def jacobian(self, theta: FloatArray) -> FloatArray:
        """Derivatives of r by θ, (S, n, p)."""
        jacobian: FloatArray = np.einsum("ksn,knp->snp", self.shares(theta), self.x)
        return jacobian

    def value(self, theta: FloatArray, weights: FloatArray | None = None) -> FloatArray:
        """(S,) for θ (S, p)."""
        out = np.empty(len(theta))
        for part, w, room in self._parts(len(theta), weights):
            r = self._terms(theta[part], room)[2]
            out[part] = _huber(r, np.clip(r, -self.delta, self.delta, out=room.pull), w)
        return out

    def slope(self, theta: FloatArray, weights: FloatArray | None = None) -> Slope:
        """Value and gradient for θ (S, p)."""
        out = Slope(np.empty(len(theta)), np.zeros(theta.shape))
        for part, w, room in self._parts(len(theta), weights):
            terms, total, r = self._terms(theta[part], room)
            psi = np.clip(r, -self.delta, self.delta, out=room.pull)
            out.value[part] = _huber(r, psi, w)
            psi /= total
            if w is not None:
                psi *= w
            self._add_gradient(out.gradient[part], terms, psi, room)
        return out

    def curve(self, theta: FloatArray, weights: FloatArray | None = None) -> Curve:
        """Value, gradient, Hessian and metric for θ (S, p)."""
        p, count = theta.shape[1], len(theta)
        out = Curve(np.empty(count), np.zeros(theta.shape), np.zeros((count, p, p)), np.zeros((count, p, p)))
        flat = [matrices.reshape(count, -1) for matrices in out[2:]]
        for part, w, room in self._parts(count, weights):
            terms, total, r = self._terms(theta[part], room)
            psi = np.clip(r, -self.delta, self.delta, out=room.pull)
            out.value[part] = _huber(r, psi, w)
            size = np.abs(r, out=r)
            within = np.less_equal(size, self.delta, out=room.within, casting="unsafe")
            reweighted = np.divide(self.delta, np.maximum(size, self.delta, out=size), out=size)
            if w is not None:
                for array in (psi, within, reweighted):
                    array *= w
            within -= psi
            share = [np.divide(term, total, out=space) for term, space in zip(terms, room.shares, strict=True)]
            self._add_gradient(out.gradient[part], share, psi, room)
            self._add_products(flat[0][part], flat[1][part], share, within, psi, reweighted, room)
        upper, lower = self._mirror
        for matrices in flat:
            matrices[:, lower] = matrices[:, upper]
        return out

    def _terms(self, theta: FloatArray, room: "_Room") -> tuple[list[FloatArray], FloatArray, FloatArray]:
        """exp(X_k θ) by k, (S, n), or (S, 1) where all runs have the same; their sum over k (S, n), and r (S, n)."""
        for term, (columns, x, offset) in zip(room.terms, self._columns, strict=True):
            np.matmul(theta[:, columns], x.T, out=term)
            if offset is not None:
                term += offset
            np.exp(term, out=term)
        total = np.add(room.terms[0], room.terms[1], out=room.total)
        for term in room.terms[2:]:
            total += term
        r = np.log(total, out=room.residual)
        r -= self.y
        return room.terms, total, r

    def _add_gradient(self, gradient: FloatArray, terms: list[FloatArray], factor: FloatArray, room: "_Room") -> None:
        """Add Σ_i factor_i Σ_k terms_ki X_ki."""
        for term, (columns, x, _) in zip(terms, self._columns, strict=True):
            pull = np.multiply(term, factor, out=room.spare)
            gradient[:, columns] += pull.sum(axis=1, keepdims=True) @ x if len(x) == 1 else pull @ x

    def _add_products(
        self,
        hessian: FloatArray,
        metric: FloatArray,
        share: list[FloatArray],
        both: FloatArray,
        psi: FloatArray,
        reweighted: FloatArray,
        room: "_Room",
    ) -> None:
        """Add to the upper triangles (S, p²).

        Hessian: Σ_i both_i J_i J_iᵀ + psi_i Σ_k P_ki X_ki X_kiᵀ. Metric: Σ_i reweighted_i J_i J_iᵀ.
        """
        for one, other, entries, products in self._pairs:
            shares = np.multiply(share[one], share[other], out=room.total)
            metric[:, entries] += np.multiply(shares, reweighted, out=room.spare) @ products
            shares *= both
            if one == other:
                shares += np.multiply(psi, share[one], out=room.spare)
            hessian[:, entries] += shares @ products

    def _parts(self, count: int, weights: FloatArray | None) -> Iterator[tuple[slice, FloatArray | None, "_Room"]]:
        """The batch in parts that fit the cache, with their weights and room to work in."""
        step = max(1, CACHE_NUMBERS // len(self.y))
        room = self._room(min(step, count))
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            of_part = weights if weights is None or weights.ndim == 1 else weights[part]
            yield part, of_part, room.first(part.stop - start)

    def _room(self, count: int) -> "_Room":
        widths = [len(x) if offset is None else len(self.y) for _, x, offset in self._columns]
        return _Room(
            [np.empty((count, width)) for width in widths],
            [np.empty((count, len(self.y))) for _ in widths],
            *(np.empty((count, len(self.y))) for _ in range(5)),
        )

    @cached_property
    def _columns(self) -> list[tuple[IntArray, FloatArray, FloatArray | None]]:
        """By term: which parameters occur in it, X_k of these, of one row if all runs are alike, and the offset."""
        parts: list[tuple[IntArray, FloatArray, FloatArray | None]] = []
        for k, whole in enumerate(self.x):
            columns = np.flatnonzero(whole.any(axis=0))
            offset = None if self.offset is None else self.offset[k]
            alike = offset is None and bool((whole == whole[:1]).all())
            parts.append((columns, np.ascontiguousarray(whole[: 1 if alike else None, columns]), offset))
        return parts

    @cached_property
    def _mirror(self) -> tuple[IntArray, IntArray]:
        """Positions above the diagonal of a flat (p²,) matrix, and their mirror images below it."""
        places = np.arange(self.x.shape[2] ** 2).reshape((self.x.shape[2],) * 2)
        upper = np.triu_indices(self.x.shape[2], 1)
        return places[upper], places.T[upper]

    @cached_property
    def _pairs(self) -> list[_Pair]:
        p = self.x.shape[2]
        upper = np.flatnonzero(np.triu(np.ones((p, p))))
        pairs = []
        for one, other in combinations_with_replacement(range(len(self.x)), 2):
            product = np.einsum("np,nq->npq", self.x[one], self.x[other])
            if one != other:
                product = product + product.transpose(0, 2, 1)
            flat = product.reshape(-1, p * p)
            entries = upper[flat[:, upper].any(axis=0)]
            pairs.append(_Pair(one, other, entries, np.ascontiguousarray(flat[:, entries])))
        return pairs


def _huber(r: FloatArray, psi: FloatArray, w: FloatArray | None) -> FloatArray:
    """Σ_i w_i Huber(r_i): psi (r - psi / 2) is r²/2 within δ and δ |r| - δ²/2 beyond."""
    weighted = psi if w is None else psi * w
    total: FloatArray = np.einsum("si,si->s", weighted, r)
    total -= 0.5 * np.einsum("si,si->s", weighted, psi)
    return total
