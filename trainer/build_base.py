"""Builds the tiny foundation model that local runs fine-tune: a 1 M parameter Phi-3.

Trains a byte-level BPE tokenizer and a `Phi3ForCausalLM` on the docstrings and the language reference of
the running Python's standard library, half of it written as chat turns, so that LoRA has something to
adapt: on random weights it learns nothing. The result is committed; this program is its provenance, and
runs for some minutes. It is not bit-exact across CPU types, thread counts or Python versions.

    python -m trainer.build_base azureml_emulator/registry/weights/tiny-phi3

Letters in array names: b = row of a batch, t = position in a row.
"""

import argparse
import ast
import hashlib
import json
import os
import platform
import random
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trainer import cpu

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import Phi3ForCausalLM

VOCABULARY_SIZE = 2048
CONTEXT_TOKENS = 512
ROW_TOKENS = 256
STEP_TOKENS = 2048
PEAK_LEARNING_RATE = 2e-3
WARMUP_STEPS = 100
SEED = 42

END_OF_TEXT, END_OF_TURN = "<|endoftext|>", "<|end|>"
CONTROL_TOKENS = [END_OF_TEXT, "<|system|>", "<|user|>", "<|assistant|>", END_OF_TURN]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}"
    "{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)

QUESTIONS = [
    "What does {name} do?",
    "What is {name}?",
    "Explain {name} in a few words.",
    "Tell me about {name}.",
    "Can you describe {name}?",
    "How would you describe {name}?",
]

# Repeating the name teaches the model to copy words from the question.
ANSWERS = ["{text}", "{name}: {text}", "{name} is described so: {text}", "About {name}: {text}"]

LICENSE_NOTE = """\
The weights and the tokenizer in this folder were made for this project and carry its MIT licence.
They were trained on text of the Python standard library (docstrings and pydoc topics), which is
Copyright (c) Python Software Foundation, under the PSF License Agreement: https://docs.python.org/3/license.html
The architecture is Phi-3 as implemented in transformers; no weights of Microsoft's models are included.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=4000)
    arguments = parser.parse_args()
    cpu.limit_threads()
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    started = time.monotonic()
    arguments.out.mkdir(parents=True, exist_ok=True)
    documents = list(standard_library_documents())
    random.Random(SEED).shuffle(documents)
    held_out = len(documents) // 50
    tokenizer = train_tokenizer(documents)
    train_t = encode_stream(tokenizer, documents[held_out:])
    validation_t = encode_stream(tokenizer, documents[:held_out])
    model = create_model(tokenizer)
    pretrain(model, train_t, arguments.steps)
    validation_loss = evaluate(model, validation_t)
    save_model(arguments.out, model, tokenizer)
    save_provenance(
        arguments.out,
        {
            "name": "tiny-phi3",
            "command": f"python -m trainer.build_base OUT --steps {arguments.steps}",
            "corpus": "standard library docstrings and pydoc topics (PSF licence), about half as chat turns",
            "corpus_bytes": sum(len(document.encode()) for document in documents),
            "corpus_documents": len(documents),
            "corpus_tokens": len(train_t),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "steps": arguments.steps,
            "tokens_per_step": STEP_TOKENS,
            "validation_loss": round(validation_loss, 4),
            "seconds": round(time.monotonic() - started),
            "threads": cpu.thread_count(),
        },
    )


def standard_library_documents() -> Iterator[str]:
    """Every document of the corpus: raw docstrings, chats about them, and the language reference's topics."""
    from pydoc_data.topics import topics

    draw = random.Random(SEED)
    for _, entries in sorted(docstrings_by_module().items()):
        yield from (f"{name}\n\n{text}" for name, text in entries)
        yield from chats_about(entries, draw)
    for name, text in sorted(topics.items()):
        yield text
        yield from chats_about([(f"{name} in Python", text)], draw)


def docstrings_by_module() -> dict[str, list[tuple[str, str]]]:
    """Dotted name and docstring of each documented module, class and function, by module; nothing is imported."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"test", "tests", "site-packages", "idlelib", "lib2to3", "encodings", "pydoc_data", "turtledemo"}
    classes: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if skipped.intersection(parts):
            continue
        module = ".".join(part for part in parts if part != "__init__")
        tree = ast.parse(path.read_bytes())
        if entries := list(documented_names(tree, module)):
            classes[module] = entries
    return classes


def documented_names(tree: ast.Module, module: str) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        text = ast.get_docstring(node)
        if text and len(text) > 30:
            yield (module if isinstance(node, ast.Module) else f"{module}.{node.name}"), text


def chats_about(entries: list[tuple[str, str]], draw: random.Random) -> Iterator[str]:
    """Conversations of one to three turns that ask what a name means and are told its first paragraph."""
    turns = [(name, " ".join(text.split("\n\n")[0].split())) for name, text in entries]
    turns = [(name, text) for name, text in turns if 20 < len(text) < 600]
    while turns:
        count = draw.randint(1, 3)
        spoken, turns = turns[:count], turns[count:]
        yield "".join(
            f"<|user|>\n{draw.choice(QUESTIONS).format(name=name)}{END_OF_TURN}\n"
            f"<|assistant|>\n{draw.choice(ANSWERS).format(name=name, text=text)}{END_OF_TURN}\n"
            for name, text in spoken
        )


def train_tokenizer(documents: list[str]) -> "Tokenizer":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=CONTROL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # The control tokens stand in the chats; as text they must not become merges.
    plain = (document for document in documents if "<|" not in document)
    tokenizer.train_from_iterator(plain, trainer)
    return tokenizer


def encode_stream(tokenizer: "Tokenizer", documents: list[str]) -> "torch.Tensor":
    import torch

    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    stream: list[int] = []
    for encoding in tokenizer.encode_batch(documents):
        stream += [*encoding.ids, end_of_text]
    return torch.tensor(stream)


def create_model(tokenizer: "Tokenizer") -> "Phi3ForCausalLM":
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(SEED)
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    config = Phi3Config(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT_TOKENS,
        original_max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        pad_token_id=end_of_text,
        # sdpa's CPU kernels lose to plain attention at a head size of 32.
        attn_implementation="eager",  # pyright: ignore[reportCallIssue]  its base class takes it
    )
    return Phi3ForCausalLM(config)


def pretrain(model: "Phi3ForCausalLM", stream_t: "torch.Tensor", steps: int) -> None:
    import torch

    draw = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LEARNING_RATE, total_steps=steps, pct_start=min(0.5, WARMUP_STEPS / steps)
    )
    model.train()
    for step in range(1, steps + 1):
        # Short rows are quick; the last quarter teaches the positions beyond them.
        length = ROW_TOKENS if step <= steps * 3 // 4 else CONTEXT_TOKENS
        starts = torch.randint(len(stream_t) - length, (STEP_TOKENS // length,), generator=draw)
        tokens_bt = torch.stack([stream_t[start : start + length] for start in starts.tolist()])
        with torch.autocast("cpu", torch.bfloat16, enabled=cpu.has_bf16()):
            loss = model(input_ids=tokens_bt, labels=tokens_bt).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}/{steps} loss {loss.item():.3f}", flush=True)


def evaluate(model: "Phi3ForCausalLM", stream_t: "torch.Tensor") -> float:
    """Mean loss per token of the held-out documents."""
    import torch

    model.eval()
    rows_bt = stream_t[: len(stream_t) // ROW_TOKENS * ROW_TOKENS].view(-1, ROW_TOKENS)
    with torch.inference_mode():
        losses = [model(input_ids=row_bt, labels=row_bt).loss.item() for row_bt in rows_bt.split(1)]
    return sum(losses) / len(losses)


def save_model(out: Path, model: "Phi3ForCausalLM", tokenizer: "Tokenizer") -> None:
    from transformers import GenerationConfig, PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        additional_special_tokens=CONTROL_TOKENS[1:],
        model_max_length=CONTEXT_TOKENS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(out)
    # Transformers 4, which many serving images have, knows neither 5's names here nor rope_parameters.
    settings = json.loads((out / "tokenizer_config.json").read_text())
    settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    write_json(out / "tokenizer_config.json", settings | {"tokenizer_class": "PreTrainedTokenizerFast"})
    model.generation_config = GenerationConfig(
        bos_token_id=fast.bos_token_id,
        eos_token_id=[fast.eos_token_id, fast.convert_tokens_to_ids(END_OF_TURN)],
        pad_token_id=fast.pad_token_id,
    )
    model.bfloat16().save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    config = json.loads((out / "config.json").read_text())
    write_json(out / "config.json", config | {"rope_theta": config["rope_parameters"]["rope_theta"]})
    (out / "LICENSE").write_text(LICENSE_NOTE)


def write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def save_provenance(out: Path, facts: dict[str, object]) -> None:
    import tokenizers
    import torch
    import transformers

    sha256 = {
        name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in ("model.safetensors", "tokenizer.json")
    }
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
    }
    write_json(out / "PROVENANCE.json", facts | {"sha256": sha256, "versions": versions})


if __name__ == "__main__":
    main()
