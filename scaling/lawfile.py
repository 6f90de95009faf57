"""`law.json`: a fitted law as strict JSON with a schema version. Draws are base64 of little-endian float32.

The file has its own hash: a law in which somebody changed a number is no fit of anything, and is refused.
"""

import base64
import binascii
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn, cast

import numpy as np

from family.files import write_atomic
from family.strict import FieldError, canonical, dumps, from_json
from scaling.certificate import Certificate
from scaling.errors import ScalingError
from scaling.findings import Finding
from scaling.forms import FORMS
from scaling.law import Data, FittedLaw
from scaling.runs import COMPUTE, PARAMS, Compute, Conventions, FloatArray, Params

LAW_VERSION = 2
LIBRARIES = ("familial", "numpy", "scipy")
ENCODING = "base64 of little-endian float32, draw by draw"
_DRAW = np.dtype("<f4")


@dataclass(frozen=True)
class DrawsDocument:
    """The bootstrap's draws."""

    count: int
    seed: int
    encoding: str
    data: str


@dataclass(frozen=True)
class ConventionsDocument:
    """`Conventions`, before their values are checked."""

    params: str
    compute: str
    heads: bool


@dataclass(frozen=True)
class LawDocument:
    """What the file holds."""

    schema_version: int
    form: str
    formula: str
    method: str
    parameters: Mapping[str, float]
    """θ by name; e, a, b are logarithms of E, A, B."""
    draws: DrawsDocument
    objective: float
    sigma: float
    conventions: ConventionsDocument
    certificate: Certificate
    data: Data
    findings: tuple[Finding, ...]
    versions: Mapping[str, str]
    sha256: str
    """Of all the other fields."""
    covariance: tuple[tuple[float, ...], ...] | None = None
    """Of θ; missing where the runs do not determine it."""


def save_law(law: FittedLaw, path: Path) -> None:
    """Write a law, whole or not at all."""
    write_atomic(path, dumps(law_document(law)))


def law_document(law: FittedLaw) -> LawDocument:
    """A law in JSON's types."""
    known = law.conventions
    document = LawDocument(
        schema_version=LAW_VERSION,
        form=law.form.name,
        formula=law.form.formula,
        method=law.method,
        parameters=dict(zip(law.form.parameters, law.theta.tolist(), strict=True)),
        covariance=None if law.covariance is None else tuple(tuple(row) for row in law.covariance.tolist()),
        draws=DrawsDocument(
            count=len(law.draws),
            seed=law.seed,
            encoding=ENCODING,
            data=base64.b64encode(law.draws.astype(_DRAW).tobytes()).decode(),
        ),
        objective=law.objective,
        sigma=law.sigma,
        conventions=ConventionsDocument(known.params, known.compute, known.heads),
        certificate=law.certificate,
        data=law.data,
        findings=law.findings,
        versions={"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        sha256="",
    )
    return replace(document, sha256=_digest(document))


def load_law(path: Path) -> FittedLaw:
    """Read a law.

    Raises:
        ScalingError: the file is missing, malformed, of another version or form, or was changed after it was written;
            the text says what to do.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if not text.lstrip().startswith("{"):
            raise ScalingError(f"{path}: is no law file; write one with: fit-law RUNS --out law.json")
        data = json.loads(text, parse_constant=_no_constant)
        if "schema_version" in data and data["schema_version"] != LAW_VERSION:
            raise FieldError(
                "schema_version", f"this release reads version {LAW_VERSION}, the file is of {data['schema_version']}"
            )
        document = from_json(LawDocument, data)
        law = _law(document)
        if document.sha256 != _digest(document):
            raise FieldError("sha256", "the file was changed after fit-law wrote it, so it is no fit of its runs")
        return law
    except FileNotFoundError:
        raise ScalingError(f"{path}: no such file; write one with: fit-law RUNS --out {path}") from None
    except IsADirectoryError:
        raise ScalingError(f"{path}: is a folder; name a law file in it") from None
    except (FieldError, ValueError, RecursionError) as error:
        raise ScalingError(f"{path}: {error}; fit it again with: fit-law RUNS --out {path}") from None


def _digest(document: LawDocument) -> str:
    return sha256(canonical(replace(document, sha256=""))).hexdigest()


def _law(document: LawDocument) -> FittedLaw:
    """The law of a document. Raises `FieldError`."""
    if document.form not in FORMS:
        raise FieldError("form", f"expected one of {', '.join(FORMS)}, got {document.form!r}")
    form = FORMS[document.form]
    if set(document.parameters) != set(form.parameters):
        raise FieldError("parameters", f"expected {', '.join(form.parameters)}, got {', '.join(document.parameters)}")
    theta = np.array([document.parameters[name] for name in form.parameters])
    if not np.isfinite(theta).all():
        raise FieldError("parameters", "expected finite numbers")
    return FittedLaw(
        form=form,
        method=document.method,
        theta=theta,
        covariance=_covariance(document, len(form.parameters)),
        draws=_draws(document.draws, len(form.parameters)),
        seed=document.draws.seed,
        objective=document.objective,
        sigma=document.sigma,
        conventions=_conventions(document.conventions),
        certificate=document.certificate,
        data=document.data,
        findings=document.findings,
    )


def _covariance(document: LawDocument, count: int) -> FloatArray | None:
    rows = document.covariance
    if rows is None:
        return None
    if len(rows) != count or any(len(row) != count for row in rows):
        raise FieldError("covariance", f"expected {count} rows of {count} numbers")
    return np.array(rows)


def _draws(document: DrawsDocument, count: int) -> FloatArray:
    if document.encoding != ENCODING:
        raise FieldError("draws.encoding", f"expected {ENCODING!r}, got {document.encoding!r}")
    try:
        data = base64.b64decode(document.data, validate=True)
    except binascii.Error as error:
        raise FieldError("draws.data", str(error)) from None
    if len(data) != document.count * count * _DRAW.itemsize:
        raise FieldError("draws.data", f"expected {document.count} draws of {count} numbers, got {len(data)} bytes")
    draws: FloatArray = np.frombuffer(data, _DRAW).reshape(document.count, count).astype(np.float64)
    if not np.isfinite(draws).all():
        raise FieldError("draws.data", "expected finite numbers")
    return draws


def _conventions(document: ConventionsDocument) -> Conventions:
    for name, value, known in (("params", document.params, PARAMS), ("compute", document.compute, COMPUTE)):
        if value not in known:
            raise FieldError(f"conventions.{name}", f"expected one of {', '.join(known)}, got {value!r}")
    return Conventions(cast(Params, document.params), cast(Compute, document.compute), document.heads)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
