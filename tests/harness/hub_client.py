"""Hugging Face's libraries in a process of their own, led to a hub on loopback as a user's variables would lead them.

They read the hub's address when they are imported, so the tests' own process cannot be their client.
"""

import json
import os
import select
import subprocess
import sys
import textwrap
from pathlib import Path

from benchmarks.hub import Hub

CHAT = "HuggingFaceH4/ultrachat_200k"
CLIENT_SECONDS = 60

# Runs the texts that it reads, one a line, and answers what each left in `result` or raised.
CLIENT = """
import json, sys
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download
for line in sys.stdin:
    names = dict(globals())
    try:
        exec(json.loads(line), names)
        answer = {"result": names.get("result")}
    except Exception as error:
        answer = {"error": type(error).__name__, "text": str(error)}
    print(json.dumps(answer, default=str), flush=True)
"""


class Failed(Exception):
    """What a client raised, as `Name: text`."""


class Client:
    """A process with Hugging Face's libraries, and variables that lead them to a hub."""

    def __init__(self, hub: Hub, home: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(("HF_", "HUGGING"))}
        environment = {**kept, **hub.env, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLIENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def run(self, code: str, **values: object) -> object:
        """What the code leaves in `result`; each value is there under its name."""
        texts = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
        lines = [f"{name} = {value!r}" for name, value in texts.items()]
        print(json.dumps("\n".join([*lines, textwrap.dedent(code)])), file=self.process.stdin, flush=True)
        readable, _, _ = select.select([self.process.stdout], [], [], CLIENT_SECONDS)
        assert readable, f"no answer within {CLIENT_SECONDS} s to: {code}"
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise Failed(f"{answer['error']}: {answer['text']}")
        return answer["result"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(CLIENT_SECONDS)
        self.process.stdout.close()
