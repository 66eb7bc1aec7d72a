"""The exceptions of Retune: what was attempted and found, and what to do next.

Each carries a stable `code` for programs, a `message` and a `fix` for people, and survives pickling,
because results and errors cross processes in Prefect. None shows a secret, whatever it quotes.
"""

from retune.texts import redact


class RetuneError(Exception):
    """A step could not do its work; `fix` is the next thing to try."""

    def __init__(self, code: str, message: str, fix: str) -> None:
        message, fix = redact(message), redact(fix)
        super().__init__(code, message, fix)
        self.code, self.message, self.fix = code, message, fix

    def __str__(self) -> str:
        return f"{self.message} {self.fix}".strip()


class BadRequest(RetuneError, ValueError):
    """The request cannot be carried out as it stands. Raised before anything is created."""

    def __init__(self, problems: list[str], fix: str = "Correct the request and run it again.") -> None:
        super().__init__("BadRequest", "\n".join(problems), fix)
        self.problems = [redact(problem) for problem in problems]

    def __reduce__(self) -> tuple[type["BadRequest"], tuple[list[str], str]]:
        return type(self), (self.problems, self.fix)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class CloudError(RetuneError, RuntimeError):
    """Azure ML refused a call, or answered something unusable."""


class JobFailed(RetuneError, RuntimeError):
    """The training job ended other than Completed."""


class WaitExpired(RetuneError, TimeoutError):
    """Something did not reach its expected state before its deadline."""


class Stopped(RetuneError, InterruptedError):
    """The run was told to stop while this step was waiting."""
