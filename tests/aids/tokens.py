"""Tokens as an identity provider issues them, made without the library that relayd verifies them with."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HASHES: dict[str, type[hashes.SHA256 | hashes.SHA384 | hashes.SHA512]] = {"256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512}
CURVES = {"ES256": (ec.SECP256R1, "P-256", 32), "ES384": (ec.SECP384R1, "P-384", 48), "ES512": (ec.SECP521R1, "P-521", 66)}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int, size: int = 0) -> str:
    return b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


@dataclass
class Signer:
    """One private key of an issuer."""

    alg: str = "RS256"
    kid: str = "k1"
    bits: int = 2048
    secret: bytes = b"s" * 32
    private: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.alg in CURVES:
            self.private = ec.generate_private_key(CURVES[self.alg][0]())
        elif self.alg == "EdDSA":
            self.private = ed25519.Ed25519PrivateKey.generate()
        elif not self.alg.startswith("HS"):
            self.private = rsa.generate_private_key(65537, self.bits)

    def sign(self, data: bytes, alg: str = "") -> bytes:
        alg = alg or self.alg
        if alg == "none":
            return b""
        if alg.startswith("HS"):
            return hmac.new(self.secret, data, getattr(hashlib, f"sha{alg[2:]}")).digest()
        if alg == "EdDSA":
            return bytes(self.private.sign(data))
        kind = HASHES[alg[2:]]()
        if alg.startswith("ES"):
            size = CURVES[self.alg][2]
            r, s = decode_dss_signature(self.private.sign(data, ec.ECDSA(kind)))
            return r.to_bytes(size, "big") + s.to_bytes(size, "big")
        scheme = padding.PSS(padding.MGF1(kind), kind.digest_size) if alg.startswith("PS") else padding.PKCS1v15()
        return bytes(self.private.sign(data, scheme, kind))

    def jwk(self, **change: Any) -> dict[str, Any]:
        """The public key; `change` adds members, None takes one away."""
        if self.alg.startswith("HS"):
            members: dict[str, Any] = {"kty": "oct", "k": b64(self.secret)}
        elif self.alg in CURVES:
            _, name, size = CURVES[self.alg]
            at = self.private.public_key().public_numbers()
            members = {"kty": "EC", "crv": name, "x": number(at.x, size), "y": number(at.y, size)}
        elif self.alg == "EdDSA":
            members = {"kty": "OKP", "crv": "Ed25519", "x": b64(self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))}
        else:
            at = self.private.public_key().public_numbers()
            members = {"kty": "RSA", "n": number(at.n), "e": number(at.e)}
        made = {**members, "kid": self.kid, "use": "sig", **change}
        return {name: value for name, value in made.items() if value is not None}

    def token(self, claims: dict[str, Any], **header: Any) -> str:
        """A token; `header` changes its header, None takes a member away."""
        head = {"alg": self.alg, "typ": "JWT", "kid": self.kid, **header}
        return self.signed({name: value for name, value in head.items() if value is not None}, claims)

    def signed(self, head: Any, claims: Any, alg: str = "") -> str:
        text = f"{b64(json.dumps(head).encode())}.{b64(json.dumps(claims).encode())}"
        return f"{text}.{b64(self.sign(text.encode(), alg or self.alg))}"


def key_set(*signers: Signer) -> bytes:
    """The document that an issuer publishes."""
    return json.dumps({"keys": [one.jwk() for one in signers]}).encode()
