"""A component's command as a shell gets it: values in variables, never pasted into the command.

A shell does not read a variable's value as a command, whatever is in it. Each `${{inputs.x}}` becomes its variable,
quoted for where it stands, so that the value is one word or part of one. Where no quotes keep it whole it is refused.
"""

import re

from azureml_emulator.wire import ServiceError

EXPRESSION = re.compile(r"\$\{\{\s*([\w.\-]+)\s*\}\}")
OPTIONAL = re.compile(r"\$\[\[((?:[^\[\]]|\[(?!\[)|\](?!\]))*)\]\]")
# What changes how a shell reads the text behind it, by the quotes in which it stands; a comment is one token.
TOKENS = {
    "": re.compile(rf"{EXPRESSION.pattern}|\\.|\$?\(\(|\$?\(|\)|(?<!\S)#[^\n]*|(?<!<)<<(?!<)|['\"`]", re.DOTALL),
    '"': re.compile(rf'{EXPRESSION.pattern}|\\.|\$\(\(|\$\(|["`]', re.DOTALL),
    "'": re.compile(rf"{EXPRESSION.pattern}|'"),
}
PLACED = {"": '"${%s}"', '"': "${%s}", "'": "'\"${%s}\"'"}


class Reader:
    """Where a shell is in a command: what has been opened and not closed, the innermost last."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._open: list[str] = []
        # Where the first here-document begins; which line ends it is not looked at.
        self._document_from = len(text)

    @property
    def quotes(self) -> str:
        """The quotes that a character stands in, or nothing."""
        return self._open[-1] if self._open and self._open[-1] in ("'", '"') else ""

    def follow(self, token: str, position: int) -> None:
        """Reads a token of TOKENS that begins at the position."""
        innermost = self._open[-1] if self._open else ""
        if token in ("'", '"', "`"):
            self._open.pop() if token == innermost else self._open.append(token)
        elif token in ("((", "$(("):
            self._open += ["((", "(("]
        elif token in ("(", "$("):
            self._open.append("((" if innermost == "((" and token == "(" else "(")
        elif token == ")" and innermost in ("(", "(("):
            self._open.pop()
        elif token == "<<" and innermost != "((":
            line_end = self._text.find("\n", position)
            self._document_from = min(self._document_from, line_end if line_end >= 0 else len(self._text))

    def problem_at(self, position: int) -> str | None:
        """Why a value cannot stand there, if so."""
        if position > self._document_from:
            return "in a here-document"
        places = {"((": "in arithmetic", "`": "in backticks"}
        return next((places[opened] for opened in self._open if opened in places), None)


def render(command: str, inputs: dict[str, str], outputs: dict[str, str]) -> tuple[str, dict[str, str]]:
    """The command line for a POSIX shell, and the variables that it uses. A `$[[...]]` with an unset input is left out.

    Raises: ServiceError 400 for an expression that is not set, or that no quotes keep whole where it stands.
    """

    def keep(match: re.Match[str]) -> str:
        names = [name.partition(".")[2] for name in EXPRESSION.findall(match[1]) if name.startswith("inputs.")]
        return match[1] if all(name in inputs for name in names) else ""

    values = {f"inputs.{name}": value for name, value in inputs.items()}
    values |= {f"outputs.{name}": value for name, value in outputs.items()}
    variables = {name: f"AZUREML_VALUE_{number}" for number, name in enumerate(values)}
    text = OPTIONAL.sub(keep, command)
    reader = Reader(text)
    used: dict[str, str] = {}
    pieces: list[str] = []
    position = 0
    while match := TOKENS[reader.quotes].search(text, position):
        pieces.append(text[position : match.start()])
        position = match.end()
        name = match[1]
        if name is None:
            pieces.append(match[0])
            reader.follow(match[0], match.start())
            continue
        if name not in values:
            raise ServiceError(400, "UserError", f"The command uses '{match[0]}', which is not set. Command: {command}")
        if problem := reader.problem_at(match.start()):
            text = (
                f"The command uses '{match[0]}' {problem}, where its value could run. Pass it as an argument instead."
            )
            raise ServiceError(400, "UserError", f"{text} Command: {command}")
        used[variables[name]] = values[name]
        pieces.append(PLACED[reader.quotes] % variables[name])
    return "".join([*pieces, text[position:]]), used
