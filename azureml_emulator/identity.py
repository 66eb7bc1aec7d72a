"""Who calls: the token endpoint that `DefaultAzureCredential` finds, the cloud's metadata, and the check of every
request.

The token endpoint speaks the App Service form of managed identity (api-version 2019-08-01). Tokens are JWTs for one
audience; storage also takes shared access signatures, steps of jobs a token of their run.
"""

import base64
import hashlib
import hmac
import json
import secrets
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import jwt

from azureml_emulator.json_types import Json
from azureml_emulator.store import set_aside, write_atomically
from azureml_emulator.wire import Answer, Call, Route, ServiceError
from azureml_emulator.world import World

# The audience of the public cloud: Microsoft's samples ask for it by name to see whether the sign-in works.
PUBLIC_RESOURCE_MANAGER = "https://management.azure.com"
DATA_PLANE = "https://ml.azure.local"
STORAGE = "https://storage.azure.com"
CLOUD = "AzureMLEmulator"
STEP_TOKEN_SECONDS = 30 * 24 * 3600
# No principal is named so, and no run has a blank in its name.
STEP = "step "
PRINCIPAL = "33333333-3333-3333-3333-333333333333"
# The permission letter that a shared access signature needs for a method.
PERMISSIONS = {"GET": "rl", "HEAD": "r", "PUT": "cw", "DELETE": "d"}


class Secrets:
    """Keys of one home, made once, readable by the owner only. They outlive a restart, and so do tokens."""

    NAMES = ("identity_header", "token_key", "storage_key", "admin_token")

    def __init__(self, file: Path) -> None:
        """New keys where there are none, or none that can be read: older tokens and signatures are then void."""
        values = self._read(file)
        if values is None:
            values = {name: secrets.token_urlsafe(48) for name in self.NAMES}
            write_atomically(file, json.dumps(values))
        self.identity_header = values["identity_header"]
        self.token_key = values["token_key"]
        self.storage_key = values["storage_key"]
        self.admin_token = values["admin_token"]

    def _read(self, file: Path) -> dict[str, str] | None:
        if not file.exists():
            return None
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            if all(isinstance(values[name], str) and values[name] for name in self.NAMES):
                return values
            raise ValueError("a key is empty")
        except (ValueError, LookupError, TypeError) as error:
            set_aside(file, error)
            return None


class Identity:
    """Issues tokens and lets requests in."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._secrets = Secrets(world.settings.home / "secrets.json")

    @property
    def identity_header(self) -> str:
        return self._secrets.identity_header

    def admit(self, call: Call, route: Route) -> Call:
        """The call with its principal. Raises: ServiceError 401 or 403 in the shape of that part of the service."""
        if route.auth in ("none", "key"):
            return call
        if route.auth == "admin":
            if not is_same(bearer(call), self._secrets.admin_token):
                text = "Admin routes need 'Authorization: Bearer <admin_token>', as printed when the emulator starts."
                raise ServiceError(401, "AuthenticationFailed", text, shape="arm")
            return replace(call, principal="admin")
        if route.auth == "storage" and "sig" in call.query:
            self._check_signature(call)
            return replace(call, principal="signature")
        return replace(call, principal=self._check_token(call, route))

    def expired(self, route: Route, expiry: float | None = None) -> ServiceError:
        """How a token that has expired (by default: just now) is refused in that part of the service."""
        challenge = f'{self._realm}, error="invalid_token", error_description="The access token has expired."'
        if route.auth == "storage":
            code, shape = "InvalidAuthenticationInfo", "storage"
            text = "Server failed to authenticate the request. Lifetime validation failed. The token is expired."
        else:
            code, shape, moment = "ExpiredAuthenticationToken", "arm", time.time()
            ended = moment - 1 if expiry is None else expiry
            text = (
                f"The access token expiry UTC time '{clock(ended)}' is earlier than current UTC time '{clock(moment)}'."
            )
        return ServiceError(401, code, text, shape=shape, headers={"WWW-Authenticate": challenge})

    @property
    def _realm(self) -> str:
        return f'Bearer authorization_uri="{self._world.url}/{self._world.settings.tenant_id}"'

    def issue(self, audience: str, *, subject: str = PRINCIPAL, seconds: float) -> str:
        """A JWT for one audience."""
        moment = int(time.time())
        claims = {
            "aud": audience.rstrip("/"),
            "iss": f"{self._world.url}/{self._world.settings.tenant_id}/",
            "iat": moment,
            "nbf": moment,
            "exp": moment + int(seconds),
            "oid": subject,
            "sub": subject,
            "tid": self._world.settings.tenant_id,
            "name": "local user",
        }
        return jwt.encode(claims, self._secrets.token_key, algorithm="HS256")

    def step_token(self, run_id: str) -> str:
        """The token of a job's step: good for tracking, and nothing else."""
        return self.issue("tracking", subject=f"{STEP}{run_id}", seconds=STEP_TOKEN_SECONDS)

    def sign(self, container: str, *, permissions: str = "rcwdl", seconds: int = 3600) -> str:
        """A shared access signature for one container, as a query string without the question mark."""
        expiry = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
        signature = quote(self._signature(container, permissions, expiry), safe="")
        return f"sv=2021-12-02&sr=c&sp={permissions}&se={quote(expiry)}&sig={signature}"

    def _signature(self, container: str, permissions: str, expiry: str) -> str:
        text = "\n".join((container, permissions, expiry))
        digest = hmac.new(self._secrets.storage_key.encode(), text.encode(), hashlib.sha256).digest()
        return base64.b64encode(digest).decode()

    def _check_signature(self, call: Call) -> None:
        permissions, expiry = call.query.get("sp", ""), call.query.get("se", "")
        wanted = self._signature(call.path_params.get("container", ""), permissions, expiry)
        if not is_same(wanted, call.query["sig"]):
            text = "Server failed to authenticate the request. The signature is not that of this container."
            raise ServiceError(403, "AuthenticationFailed", text, shape="storage")
        if expiry < time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()):
            text = f"Server failed to authenticate the request. The signature expired at {expiry}."
            raise ServiceError(403, "AuthenticationFailed", text, shape="storage")
        if not set(PERMISSIONS.get(call.method, "")) & set(permissions):
            text = f"This request is not authorized: '{call.method}' with the permissions '{permissions}'."
            raise ServiceError(403, "AuthorizationPermissionMismatch", text, shape="storage")

    def _check_token(self, call: Call, route: Route) -> str:
        audiences = {
            "arm": [self._world.url, PUBLIC_RESOURCE_MANAGER, DATA_PLANE],
            "storage": [STORAGE],
            "tracking": [self._world.url, DATA_PLANE, "tracking"],
        }[route.auth]
        shape = "storage" if route.auth == "storage" else "arm"
        challenge = {"WWW-Authenticate": self._realm}
        token = bearer(call)
        if not token:
            code = "NoAuthenticationInformation" if shape == "storage" else "AuthenticationFailed"
            text = "Authentication failed. The 'Authorization' header is missing."
            raise ServiceError(401, code, text, shape=shape, headers=challenge)
        try:
            claims = jwt.decode(token, self._secrets.token_key, algorithms=["HS256"], audience=audiences)
        except jwt.ExpiredSignatureError as error:
            raise self.expired(route, expiry_of(token)) from error
        except jwt.InvalidTokenError as error:
            code = "InvalidAuthenticationInfo" if shape == "storage" else "InvalidAuthenticationToken"
            text = f"The access token is invalid: {error}. It must be issued for one of {', '.join(audiences)}."
            raise ServiceError(401, code, text, shape=shape, headers=challenge) from error
        return str(claims["sub"])

    def get_token(self, call: Call) -> Answer:
        if not is_same(call.headers.get("x-identity-header", ""), self._secrets.identity_header):
            text = "The X-IDENTITY-HEADER does not match. Load the variables again: python -m azureml_emulator env"
            return Answer(401, {"statusCode": 401, "message": text})
        resource = call.query.get("resource", "")
        known = (self._world.url, PUBLIC_RESOURCE_MANAGER, DATA_PLANE, STORAGE)
        if resource.rstrip("/") not in known:
            text = f"The resource '{resource}' is not one of {', '.join(known)}."
            return Answer(400, {"statusCode": 400, "message": text})
        lifetime = self._world.timing.token_seconds
        body: Json = {
            "access_token": self.issue(resource, seconds=lifetime),
            "expires_on": str(int(time.time() + lifetime)),
            "resource": resource,
            "token_type": "Bearer",
            "client_id": PRINCIPAL,
        }
        return Answer(200, body)

    def get_cloud_metadata(self, call: Call) -> Answer:
        authority = f"localhost:{self._world.settings.port}"
        cloud: Json = {
            "name": CLOUD,
            # What follows the second dot becomes the suffix of the data plane's audience, https://ml.azure.local.
            "portal": "https://portal.azure.local",
            "resourceManager": self._world.url,
            "authentication": {
                "loginEndpoint": self._world.url,
                "audiences": [self._world.url],
                "tenant": "common",
                "identityProvider": "AAD",
            },
            "graph": self._world.url,
            "graphAudience": self._world.url,
            "media": self._world.url,
            "batch": self._world.url,
            "sqlManagement": self._world.url,
            "gallery": self._world.url,
            "vmImageAliasDoc": self._world.url,
            "activeDirectoryDataLake": self._world.url,
            "suffixes": {
                "storage": authority,
                "keyVaultDns": f"vault.{authority}",
                "acrLoginServer": f"acr.{authority}",
            },
        }
        return Answer(200, [cloud])


def is_same(given: str, secret: str) -> bool:
    """Whether a text is the secret; it takes as long either way."""
    return hmac.compare_digest(given.encode(errors="replace"), secret.encode())


def bearer(call: Call) -> str:
    """The token of the Authorization header, or an empty text."""
    scheme, _, token = call.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def needs_token(call: Call, route: Route) -> bool:
    """Whether a request is let in by a token: not by an endpoint's key, not by a signature."""
    return route.auth in ("arm", "storage", "tracking") and "sig" not in call.query


def expiry_of(token: str) -> float:
    """When a token with a right signature ends or ended, in seconds since 1970."""
    return float(jwt.decode(token, options={"verify_signature": False})["exp"])


def clock(moment: float) -> str:
    """A time as resource manager writes it in messages: 3/19/2023 8:55:46 AM."""
    return datetime.fromtimestamp(moment, UTC).strftime("%-m/%-d/%Y %-I:%M:%S %p")
