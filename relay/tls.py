"""TLS on both ends of a connection: PEM files into gRPC's credentials, and who is at the other end.

What is wrong with a file is said here, before gRPC reads it: gRPC says only that it failed. A certificate shakes hands
with itself, in memory, so that OpenSSL judges its dates and purposes as it will for real.
"""

import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import grpc
from grpc import aio

from relay.errors import ConfigurationError

File: TypeAlias = str | PathLike[str]
Peer: TypeAlias = frozenset[bytes]
NOBODY: Peer = frozenset()
"""Every caller that was not asked for a certificate."""
_ENCRYPTED = b"ENCRYPTED"
_FLIGHTS = 4
"""Of a handshake; TLS 1.3 needs three."""


def server_credentials(cert: File | None, key: File | None, client_ca: File | None) -> grpc.ServerCredentials | None:
    """What a node shows, and whom it serves: anybody, or only who has a certificate of `client_ca`. None: no TLS.

    Raises `ConfigurationError`, which names the setting and the file.
    """
    shown = _identity("tls-", cert, key, server=True)
    if shown is None:
        if client_ca is not None:
            _wrong("tls-client-ca", "asks for clients' certificates, which only TLS can: give tls-cert and tls-key too")
        return None
    roots = None if client_ca is None else _authorities("tls-client-ca", client_ca)
    return grpc.ssl_server_credentials([shown], root_certificates=roots, require_client_auth=roots is not None)


def client_credentials(
    ca: File | None, cert: File | None, key: File | None, prefix: str = ""
) -> grpc.ChannelCredentials | None:
    """Whom a client believes, and what it shows of itself if it is asked. None: no TLS.

    Raises `ConfigurationError`, which names the setting, with `prefix`, and the file.
    """
    shown = _identity(prefix, cert, key, server=False)
    if ca is None:
        if shown is not None:
            _wrong(f"{prefix}cert", f"is shown over TLS only: give {prefix}ca too, the authority of the other end")
        return None
    return grpc.ssl_channel_credentials(_authorities(f"{prefix}ca", ca), *(shown or (None, None)))


def peer_of(context: "aio.ServicerContext[Any, Any]") -> Peer:
    """Who calls, by the names in the certificate that it proved to be its own, or that certificate if it has none."""
    proved = context.auth_context()
    for facts in ("x509_subject_alternative_name", "x509_common_name", "x509_pem_cert"):
        if found := frozenset(filter(None, proved.get(facts, ()))):  # no common name comes as an empty one
            return found
    return NOBODY


def _identity(prefix: str, cert: File | None, key: File | None, *, server: bool) -> tuple[bytes, bytes] | None:
    """Key and certificate chain, checked; None if there is neither."""
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        given, missing = ("cert", "key") if key is None else ("key", "cert")
        _wrong(f"{prefix}{given}", f"is of no use alone: give {prefix}{missing} too")
    chain, secret = _read(f"{prefix}cert", cert), _read(f"{prefix}key", key)
    if _ENCRYPTED in secret:
        _wrong(f"{prefix}key", f"{key}: it is encrypted; decrypt it with `openssl pkey -in {key} -out FILE`")
    try:
        _shake_hands(cert, key, server=server)
    except ssl.SSLCertVerificationError as error:
        _wrong(f"{prefix}cert", f"{cert}: {error.verify_message}; make another one")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            _wrong(f"{prefix}key", f"{key}: it is not the key of {cert}; give the two that were made together")
        pem = "expected PEM files, a certificate and its private key"
        _wrong(f"{prefix}cert", f"{cert}, {key}: {pem} ({error.reason or 'nothing to read'})")
    return secret, chain


def _shake_hands(cert: File, key: File, *, server: bool) -> None:
    """Show the certificate, as a server or a client, to one who trusts it and nothing else. Raises `ssl.SSLError`."""
    ends = {role: ssl.SSLContext(role) for role in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT)}
    judge = ends[ssl.PROTOCOL_TLS_CLIENT if server else ssl.PROTOCOL_TLS_SERVER]
    for end in ends.values():
        end.check_hostname, end.verify_mode = False, ssl.CERT_NONE
        end.load_cert_chain(cert, key)
    judge.verify_mode = ssl.CERT_REQUIRED
    judge.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    judge.load_verify_locations(cafile=cert)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    speakers = (
        ends[ssl.PROTOCOL_TLS_CLIENT].wrap_bio(down, up),
        ends[ssl.PROTOCOL_TLS_SERVER].wrap_bio(up, down, server_side=True),
    )
    for _ in range(_FLIGHTS):
        for speaker in speakers:
            with suppress(ssl.SSLWantReadError):
                speaker.do_handshake()


def _authorities(setting: str, ca: File) -> bytes:
    """The certificates of authorities, checked."""
    pem = _read(setting, ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=ca)
    except ssl.SSLError:
        _wrong(setting, f"{ca}: expected the certificate of an authority in PEM format")
    found: Sequence[Mapping[str, Any]] = context.get_ca_certs()
    if not found:
        _wrong(setting, f"{ca}: no certificate in it is an authority's; give the one that signed the others")
    if all(ssl.cert_time_to_seconds(each["notAfter"]) < time.time() for each in found):
        _wrong(setting, f"{ca}: certificate has expired; make another one")
    return pem


def _read(setting: str, file: File) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        _wrong(setting, f"{file}: cannot be read: {error.strerror}")


def _wrong(setting: str, problem: str) -> NoReturn:
    raise ConfigurationError(f"{setting}: {problem}")
