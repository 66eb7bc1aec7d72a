"""What an error of the SDK means for the reader of the report: a name, the service's words, and what to do next."""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from retune.errors import CloudError, RetuneError
from retune_cloud.sign_in_errors import explain_sign_in

T = TypeVar("T")

RESUME_HINT = "Run it again with the same key to resume."
# Statuses that a repeat may not meet again.
TRANSIENT = (408, 429, 500, 502, 503, 504)
MLFLOW = "mlflow.exceptions"
SDK = "azure.ai.ml.exceptions"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
BY_STATUS = {
    401: ("NotSignedIn", "Sign in again, or check that the credential is not expired or revoked."),
    403: (
        "NotAllowed",
        "Give the identity the role AzureML Data Scientist on the workspace, and access to its storage.",
    ),
    404: ("NotThere", "Check that nobody has deleted it, and the names in the request."),
    409: ("Conflict", f"Another operation is in progress, or the name is taken. {RESUME_HINT}"),
    429: ("Throttled", f"Azure ML asks for fewer calls. Wait a few minutes. {RESUME_HINT}"),
}


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed on a repeat: a failure of the network, or of the service itself."""
    import requests
    from azure.core.exceptions import DecodeError, HttpResponseError, ServiceRequestError, ServiceResponseError

    error = _origin(error)
    match error:
        case DecodeError() | CloudError(code="CloudUnreachable" | "DataUnreachable"):
            return True
        case HttpResponseError():
            # The SDK's repeat of an upload whose answer was lost is refused; a new upload replaces what is there.
            return error.status_code in TRANSIENT or "BlobAlreadyExists" in str(error)
        # Not imported: MLflow's import asks for the cloud's addresses, and may be what failed.
        case _ if type(error).__module__ == MLFLOW:
            return getattr(error, "get_http_status_code", lambda: 0)() in TRANSIENT
    return isinstance(error, (ServiceRequestError, ServiceResponseError, ConnectionError, requests.ConnectionError))


def explain(raised: Exception) -> RetuneError | None:
    """The error as one of Retune's; None for what the cloud has nothing to do with."""
    import requests
    from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

    error = _origin(raised)
    text = first_line(error)
    status = error.status_code if isinstance(error, HttpResponseError) else None
    match error:
        case RetuneError():
            return error
        case ClientAuthenticationError() if status is None:
            return explain_sign_in(error)
        case HttpResponseError() if status in BY_STATUS:
            code, fix = BY_STATUS[status]
            return CloudError(code, f"Azure ML answered HTTP {status}: {text}", fix)
        case _ if type(error).__module__ == MLFLOW:
            return CloudError("TrackingUnreadable", f"The job's metrics could not be read: {text}", RESUME_HINT)
        case _ if is_transient(error):
            answer = f" (HTTP {status})" if status else ""
            message = f"Azure ML returned no usable response after several attempts{answer}: {text}"
            return CloudError("CloudUnreachable", message, f"Check the network and Azure's status page. {RESUME_HINT}")
        case AzureError() | requests.RequestException():
            return CloudError("Refused", f"Azure ML refused a call: {text}", f"Correct what it says. {RESUME_HINT}")
    return None


def _origin(error: BaseException) -> BaseException:
    """The failed call behind the error: the SDK reports one that fails during job preparation as an invalid job."""
    from azure.core.exceptions import AzureError

    origin = error
    # By its module's name: the SDK's import may be what failed.
    while type(origin).__module__ == SDK and origin.__context__ is not None:
        origin = origin.__context__
    return origin if isinstance(origin, AzureError) else error


def first_line(error: BaseException) -> str:
    """The first line of an SDK error, without colours: the rest repeats headers and trace ids."""
    lines = COLOUR.sub("", str(error)).strip().split("\n")
    return lines[0] or type(error).__name__


def if_exists(read: Callable[[], T]) -> T | None:
    """What `read` returns; None when the service answers 404."""
    from azure.core.exceptions import ResourceNotFoundError

    try:
        return read()
    except ResourceNotFoundError:
        return None


@contextlib.contextmanager
def refusal(code: str, subject: str, fix: str, details: Callable[[], str] = str) -> Iterator[None]:
    """The service's refusal of the body's call becomes a CloudError: `subject`, the service's words, and `details`.

    Failures that a repeat may not meet again pass as they are.
    """
    from azure.core.exceptions import HttpResponseError

    try:
        yield
    except HttpResponseError as error:
        if is_transient(error):
            raise
        raise CloudError(code, f"{subject}: {first_line(error)}{details()}", fix) from error
