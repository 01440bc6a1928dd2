#!/usr/bin/env python3
"""Hugging Face transformers as a peer: tiny checkpoints of every family, and the tokens it makes of them.

    python3 -m venv venv && venv/bin/pip install numpy torch transformers
    venv/bin/python scripts/peers/huggingface.py checkpoints DIR
    venv/bin/python scripts/peers/huggingface.py fixtures [--out reference/testdata/checkpoints]

`checkpoints` writes one folder a variant, in the ways that published checkpoints are written: one file or
several with an index, fp32, fp16 or bf16, tied tables once or several times, computed tables left in.
`fixtures` writes what the tests need instead of the folders: configurations, the name, shape and scale of
every tensor (values are a function of seed, name and index: twin/seeded.py), the greedy and beam-4
tokens of many ragged sequences with their end-of-sequence live, and encoder output and logits of three.

A sequence in which some choice of transformers hangs on a difference below 1e-5, in fp32 or in fp64, or comes
out otherwise in fp64, is left out and counted: two right programs that add in another order may differ there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import transformers
from fixture_files import MADE_BY, digits, write
from tiny_checkpoints import ROOT, SEED, Variant, variants, write_checkpoint
from twin import seeded

SEQUENCES = 134  # a variant, before the undecided ones are left out
NEW_TOKENS = 64
BEAMS = 4
MARGIN = 1e-5


def load(folder: Path) -> transformers.PreTrainedModel:
    """The folder as transformers reads it, in fp32."""
    model, info = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="eager",
        output_loading_info=True,
    )
    if info["missing_keys"] or info["mismatched_keys"]:
        raise SystemExit(f"{folder}: {info}")
    return model.eval()


def source_ids(name: str, v: Variant) -> list[list[int]]:
    """Seeded sources of 1 to max_source ordinary ids; short ones are more frequent."""
    special = {
        v.generation[k]
        for k in ("pad_token_id", "eos_token_id", "decoder_start_token_id")
    }
    ordinary = np.array([i for i in range(v.config.vocab_size) if i not in special])
    key = seeded.stream_key(SEED, f"{name}.lengths")
    share = seeded.uniform_below(
        key, np.arange(SEQUENCES, dtype=np.uint64), 1 << 16
    ) / (1 << 16)
    lengths = 1 + (share**3 * v.max_source).astype(int)
    lengths[0] = v.max_source
    sources = []
    for s, length in enumerate(lengths):
        index = (np.uint64(s) << np.uint64(32)) + np.arange(length, dtype=np.uint64)
        draws = seeded.uniform_below(
            seeded.stream_key(SEED, f"{name}.ids"), index, len(ordinary)
        )
        sources.append(ordinary[draws].tolist())
    return sources


class Margins:
    """The smallest difference that a choice of transformers' beam search hung on, for each source."""

    def __init__(self) -> None:
        self.least = np.zeros(0)
        self.mixin = transformers.generation.utils.GenerationMixin
        self.continuations = self.mixin._get_top_k_continuations
        self.running = self.mixin._get_running_beams_for_next_iteration
        self.finished = self.mixin._update_finished_beams

    def note(self, scores: torch.Tensor, keep: int) -> None:
        """The last of `keep` kept scores against the first that is not; hopeless ones decide nothing."""
        top = torch.topk(scores.double(), min(keep + 1, scores.shape[-1]))[0]
        if top.shape[-1] > keep:
            gap = (top[:, keep - 1] - top[:, keep]).numpy()
            self.least = np.minimum(
                self.least, np.where(top[:, keep].numpy() > -1e8, gap, np.inf)
            )

    def __enter__(self) -> Self:
        margins = self

        def continuations(model: Any, **kw: Any) -> Any:
            margins.note(kw["accumulated_log_probs"], kw["beams_to_keep"])
            margins.note(kw["accumulated_log_probs"], kw["num_beams"])
            return margins.continuations(model, **kw)

        def running(model: Any, **kw: Any) -> Any:
            ended = kw["next_token_hits_stopping_criteria"].float() * -1e9
            margins.note(kw["topk_log_probs"] + ended, kw["num_beams"])
            return margins.running(model, **kw)

        def finished(model: Any, **kw: Any) -> Any:
            out = margins.finished(model, **kw)
            # Back in units of log-probability: a penalty may divide by thousands.
            undone = (kw["cur_len"] + 1 - kw["decoder_prompt_len"]) ** kw[
                "length_penalty"
            ]
            margins.note(torch.where(out[3], out[1] * undone, torch.tensor(-1e9)), 1)
            return out

        self.mixin._get_top_k_continuations = continuations
        self.mixin._get_running_beams_for_next_iteration = running
        self.mixin._update_finished_beams = finished
        return self

    def __exit__(self, *_: object) -> None:
        self.mixin._get_top_k_continuations = self.continuations
        self.mixin._get_running_beams_for_next_iteration = self.running
        self.mixin._update_finished_beams = self.finished


def trimmed(row: list[int], eos: int) -> list[int]:
    """Generated tokens without the decoder's start and without what follows the first eos."""
    tokens = row[1:]
    return tokens[: tokens.index(eos) + 1] if eos in tokens else tokens


def generate(
    model: Any, v: Variant, sources: list[list[int]], beams: int
) -> tuple[list[Any], np.ndarray]:
    """Tokens (and for beams the score) of every source, in ragged batches of 1 to 16, and their margins."""
    eos = v.generation["eos_token_id"]
    results: list[Any] = []
    least: list[float] = []
    size = 1
    while len(results) < len(sources):
        batch = sources[len(results) : len(results) + size]
        size = size % 16 + 1
        longest = max(len(s) for s in batch)
        ids = torch.full((len(batch), longest), v.generation["pad_token_id"])
        mask = torch.zeros_like(ids)
        for row, source in enumerate(batch):
            ids[row, : len(source)] = torch.tensor(source)
            mask[row, : len(source)] = 1
        with Margins() as margins, torch.no_grad():
            margins.least = np.full(len(batch), np.inf)
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                num_beams=beams,
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                return_dict_in_generate=True,
                output_scores=True,
            )
        rows = [trimmed(r, eos) for r in out.sequences.tolist()]
        if beams == 1:
            for step, scores in enumerate(out.scores):
                gap = torch.topk(scores.double(), 2)[0]
                gap = torch.where(
                    gap[:, 1].isinf(), torch.inf, gap[:, 0] - gap[:, 1]
                ).numpy()
                live = np.array([step < len(r) for r in rows])
                margins.least = np.where(
                    live, np.minimum(margins.least, gap), margins.least
                )
            results += rows
        else:
            results += [
                [s, r] for s, r in zip(digits(out.sequences_scores), rows, strict=True)
            ]
        least += margins.least.tolist()
    return results, np.array(least)


def forced(model: Any, v: Variant, sources: list[list[int]]) -> dict[str, Any]:
    """Encoder output and teacher-forced logits of a few sequences, each alone and unpadded."""
    start = v.generation["decoder_start_token_id"]
    cases = []
    for source in sources:
        target = [start, *source[:5]]
        with torch.no_grad():
            out = model(
                input_ids=torch.tensor([source]),
                decoder_input_ids=torch.tensor([target]),
                use_cache=False,
            )
        cases.append(
            {
                "source": source,
                "target": target,
                "encoder_output": digits(out.encoder_last_hidden_state),
                "logits": digits(out.logits),
            }
        )
    return {"forced": cases}


def fixture(name: str, v: Variant) -> dict[str, Any]:
    """Everything the tests need of one variant."""
    with tempfile.TemporaryDirectory() as folder:
        tensors = write_checkpoint(Path(folder), v)
        model = load(Path(folder))
        config = json.loads((Path(folder) / "config.json").read_text())
    sources = source_ids(name, v)
    greedy, greedy_margin = generate(model, v, sources, 1)
    beam, beam_margin = generate(model, v, sources, BEAMS)
    short = [s for s in sources if 3 <= len(s) <= 12][:3]
    outputs = forced(model, v, short)
    # In fp64 the same search may go another way, or nearly so: then fp32 has not decided either.
    model = model.double()
    exact_greedy, exact_greedy_margin = generate(model, v, sources, 1)
    exact_beam, exact_beam_margin = generate(model, v, sources, BEAMS)
    margin = np.minimum.reduce(
        [greedy_margin, beam_margin, exact_greedy_margin, exact_beam_margin]
    )
    undecided = [
        i
        for i in range(SEQUENCES)
        if margin[i] < MARGIN
        or greedy[i] != exact_greedy[i]
        or beam[i][1] != exact_beam[i][1]
    ]
    distinct = len({t for row in greedy for t in row})
    ended = sum(
        row[-1] == v.generation["eos_token_id"] and len(row) < NEW_TOKENS
        for row in greedy
    )
    different = sum(g != b[1] for g, b in zip(greedy, beam, strict=True))
    print(
        f"{name}: {SEQUENCES - len(undecided)} sequences, {len(undecided)} undecided, {distinct} distinct tokens, "
        f"{ended} end early, beam differs in {different}",
        file=sys.stderr,
    )
    return {
        "made_by": MADE_BY,
        "seed": SEED,
        "config": config,
        "generation": v.generation,
        "tensors": [
            [t.file, t.name, t.shape, t.dtype, t.stream, t.base, t.exponent]
            for t in tensors
        ],
        "new_tokens": NEW_TOKENS,
        "beams": BEAMS,
        "lengths": [len(s) for s in sources],
        "undecided": undecided,
        **outputs,
        "greedy": greedy,
        "beam": beam,
    }


def main() -> None:
    """Writes checkpoints or fixtures."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True)
    folders = commands.add_parser("checkpoints", help="tiny checkpoint folders")
    folders.add_argument("out", type=Path)
    fixtures = commands.add_parser("fixtures", help="what the tests compare with")
    fixtures.add_argument(
        "--out", type=Path, default=ROOT / "reference" / "testdata" / "checkpoints"
    )
    for command in (folders, fixtures):
        command.add_argument("--only", choices=sorted(variants()), help="one variant")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, v in variants().items():
        if args.only in (None, name):
            if args.command == "checkpoints":
                write_checkpoint(args.out / name, v)
            else:
                write(args.out / f"{name}.json", fixture(name, v))


if __name__ == "__main__":
    main()
