"""transformers' models with Tandem's seeded weights, and the two ways in which engine.py runs them.

`Generate` is generate() as a user calls it: static cache, its decode step compiled by transformers itself where there
is a GPU. `Step` is the same forward pass without generate()'s host work: encoder with the first step, and the step
that follows, each compiled once and captured into a CUDA graph, which replays on its own tokens. On a CPU both are
eager. Written against transformers 5.23 and torch 2.15.
"""

from __future__ import annotations

import copy
import gc
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.cache_utils import EncoderDecoderCache, StaticCache
from transformers.modeling_outputs import BaseModelOutput
from twin import seeded
from twin.model import Model, Tensor, parse_seed, weight_layout

from hf.families import CLASSES, config_values, hf_name

DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


def signed(value: int) -> int:
    """The int64 with the bits of a uint64; torch's integers wrap as C's unsigned ones do."""
    return value - (1 << 64) if value >> 63 else value


def shifted(z: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical right shift of int64."""
    return (z >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def random_bits(key: int, index: torch.Tensor) -> torch.Tensor:
    """seeded.random_bits on a device; `index` is overwritten."""
    z = index.add_(1).mul_(signed(seeded.GOLDEN)).add_(signed(key))
    z = z.bitwise_xor_(shifted(z, 30)).mul_(signed(0xBF58476D1CE4E5B9))
    z = z.bitwise_xor_(shifted(z, 27)).mul_(signed(0x94D049BB133111EB))
    return z.bitwise_xor_(shifted(z, 31))


def fill_seeded(slot: torch.Tensor, seed: int, t: Tensor, outliers: bool) -> None:
    """Writes the values of seeded.seeded_tensor, rounded to the slot's type, on the slot's device."""
    key, device = seeded.stream_key(seed, t.name), slot.device
    out = slot.detach().view(t.rows, t.cols)
    scaled = outliers and t.outlier_rows
    factor = 2.0 ** (t.exponent - (seeded.OUTLIER_SHIFT if scaled else 0))
    table = torch.tensor(seeded.OUTLIER_SCALE, dtype=torch.int64, device=device)
    chunk = max(1, (1 << (25 if device.type == "cuda" else 18)) // t.cols)
    for first in range(0, t.rows, chunk):
        rows = min(chunk, t.rows - first)
        start, end = first * t.cols, (first + rows) * t.cols
        r = random_bits(key, torch.arange(start, end, device=device))
        total = (r & 0xFFFF) + (shifted(r, 16) & 0xFFFF)
        total = total.add_(shifted(r, 32) & 0xFFFF).add_(shifted(r, 48)).sub_(131070)
        total = total.view(rows, t.cols)
        if scaled:
            number = torch.arange(first, first + rows, device=device)
            slot_of = shifted(random_bits(~key & seeded.MASK, number), 58)
            total = total * table[slot_of][:, None]
        out[first : first + rows].copy_(total.float().mul_(factor).add_(t.base))


def sinusoids(m: Model) -> torch.Tensor:
    """Our table of positions, [max_positions, d_model]."""
    half = m.d_model // 2
    spans = half - 1 if m.sinusoid_spans_end else half
    pair = np.arange(half, dtype=np.float64)
    position = np.arange(m.max_positions, dtype=np.float64) + m.position_offset
    angle = position[:, None] * 10000.0 ** (-pair / spans)
    table = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    if m.position == "sinusoidal":
        table = np.stack([np.sin(angle), np.cos(angle)], axis=2).reshape(-1, m.d_model)
    return torch.from_numpy(table.astype(np.float32))


def seeded_model(
    m: Model, family: str, weights: str, dtype: torch.dtype, device: torch.device
) -> Any:
    """The family's model with the values that Tandem's engines compute with. Raises RuntimeError for a parameter
    that no tensor of ours fills.
    """
    seed, outliers = parse_seed(weights)
    model_class = getattr(transformers, CLASSES[family])
    config = model_class.config_class(**config_values(family, m))
    with torch.device(device):
        model = model_class(config).eval()
    if not m.tied_head:  # transformers 5 ties T5's until a checkpoint says otherwise
        model.lm_head.weight = torch.nn.Parameter(
            torch.zeros_like(model.lm_head.weight)
        )
    model = model.to(dtype).requires_grad_(False)
    slots = dict(model.named_parameters()) | dict(model.named_buffers())
    if family == "marian":
        for side in ("encoder", "decoder"):
            slots.pop(f"model.{side}.embed_positions.weight").copy_(sinusoids(m))
    for t in weight_layout(m):
        fill_seeded(slots.pop(hf_name(family, t.name, m.gated)), seed, t, outliers)
    # What is computed, and the bias of zeros that BART and Marian add to logits.
    computed = ("embed_positions.weights", "final_logits_bias", "embed_scale")
    left = [name for name in slots if not name.endswith(computed)]
    if left:
        raise RuntimeError(f"{m.name}: nothing fills {', '.join(left)}")
    return model


def checkpoint(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """A folder as transformers reads it. Raises RuntimeError for tensors that are missing."""
    model, info = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        folder, dtype=dtype, output_loading_info=True, local_files_only=True
    )
    if info["missing_keys"] or info["mismatched_keys"]:
        raise RuntimeError(f"{folder}: missing tensors: {info['missing_keys']}")
    return model.eval().to(device=device, dtype=dtype).requires_grad_(False)


class Clock:
    """Marks on the device's timeline: CUDA events, or the host's clock on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def mark(self) -> Any:
        """Now, in the order of the stream."""
        if not self.cuda:
            return time.perf_counter_ns()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def us(self, first: Any, last: Any) -> float:
        """Microseconds between two marks; waits for the last one."""
        if not self.cuda:
            return (last - first) / 1000
        last.synchronize()
        return float(first.elapsed_time(last)) * 1000


class Inputs:
    """A case's tensors on the device."""

    def __init__(
        self, m: Model, sources: list[list[int]], tgt: int, device: torch.device
    ) -> None:
        self.batch, self.src, self.tgt = len(sources), max(map(len, sources)), tgt
        ids = torch.full((self.batch, self.src), m.pad_id)
        mask = torch.zeros_like(ids)
        for row, source in enumerate(sources):
            ids[row, : len(source)] = torch.tensor(source)
            mask[row, : len(source)] = 1
        self.ids, self.mask = ids.to(device), mask.to(device)
        self.ragged = not bool(mask.all())
        self.model, self.device = m, device

    def additive_mask(self, dtype: torch.dtype) -> torch.Tensor | None:
        """The mask of the source for attention, [batch, 1, 1, src]; None where nothing is padded."""
        if not self.ragged:
            return None
        lowest = torch.finfo(dtype).min
        return ((1 - self.mask.to(dtype)) * lowest)[:, None, None, :]


class StopAfter(transformers.StoppingCriteria):
    """Ends generate() after so many tokens."""

    def __init__(self, tokens: int) -> None:
        self.length = 1 + tokens

    def __call__(
        self, input_ids: torch.Tensor, scores: Any, **more: Any
    ) -> torch.Tensor:
        """For each sequence: is it over?"""
        over = input_ids.shape[1] >= self.length
        return torch.full(
            (input_ids.shape[0],), over, dtype=torch.bool, device=input_ids.device
        )


class Generate:
    """generate(), greedy, exactly tgt tokens."""

    def __init__(self, model: Any, inputs: Inputs, compiled: bool) -> None:
        self.hf, self.inputs, self.compiled = model, inputs, compiled
        self.clock = Clock(inputs.device)
        self.encoded: Any = None
        self.tokens = torch.zeros(0)
        # A compiled call of other shapes would compile dynamic ones, a longer cache of an earlier case would stay.
        torch._dynamo.reset()
        for name in ("_compiled_call", "_previous_max_cache_length"):
            model.__dict__.pop(name, None)
        self.hook = model.get_encoder().register_forward_hook(self.note_encoded)

    def note_encoded(self, *_: Any) -> None:
        """Where the encoder ends and the decoder begins."""
        self.encoded = self.clock.mark()

    def close(self) -> None:
        """Leaves the model as it was."""
        self.hook.remove()

    def generate(self, new_tokens: int, **more: Any) -> Any:
        """transformers' own loop."""
        m, inputs = self.inputs.model, self.inputs
        # No eos: every sequence goes on to its last token, as `stop: fixed` has it.
        self.hf.generation_config = transformers.GenerationConfig(
            decoder_start_token_id=m.decoder_start_id, pad_token_id=m.pad_id
        )
        return self.hf.generate(
            input_ids=inputs.ids,
            attention_mask=inputs.mask,
            do_sample=False,
            num_beams=1,
            max_new_tokens=new_tokens,
            cache_implementation="static",
            disable_compile=not self.compiled,
            **more,
        )

    def repeat(self) -> dict[str, float]:
        """One sample."""
        start = self.clock.mark()
        self.tokens = self.generate(self.inputs.tgt)[:, 1:]
        end = self.clock.mark()
        total_us = self.clock.us(start, end)
        step_us = self.clock.us(self.encoded, end) / self.inputs.tgt
        return {"total_us": total_us, "step_us": step_us}

    def logits(self, steps: int) -> torch.Tensor:
        """Of the first steps, [batch, steps, vocab], in fp32."""
        # Stopped, not asked for fewer: a cache of another length would be compiled anew.
        stop = transformers.StoppingCriteriaList([StopAfter(steps)])
        out = self.generate(
            self.inputs.tgt,
            return_dict_in_generate=True,
            output_logits=True,
            stopping_criteria=stop,
        )
        if not torch.equal(out.sequences[:, 1:], self.tokens[:, :steps]):
            raise RuntimeError("generate() chose other tokens when asked for logits")
        return torch.stack(out.logits, dim=1).float()


class Step:
    """The decode step alone: compiled, captured, replayed. One object is one case."""

    def __init__(
        self, model: Any, inputs: Inputs, prefix: np.ndarray | None, compiled: bool
    ) -> None:
        """`prefix` [batch, tgt]: decoder inputs of suite_decoder, whose last one is fed to the measured step."""
        self.hf, self.inputs, self.prefix = model, inputs, prefix
        self.clock = Clock(inputs.device)
        batch, tgt, device = inputs.batch, inputs.tgt, inputs.device
        torch._dynamo.reset()
        start = inputs.model.decoder_start_id
        self.start = torch.full((batch, 1), start, device=device)
        self.token = self.start.clone()
        self.tokens = torch.zeros((batch, tgt), dtype=torch.long, device=device)
        self.last_logits = torch.zeros(
            (batch, model.config.vocab_size), dtype=model.dtype, device=device
        )
        self.hidden = torch.zeros(
            (batch, inputs.src, model.config.d_model), dtype=model.dtype, device=device
        )
        self.places = torch.arange(tgt, device=device)
        self.source_mask = inputs.additive_mask(model.dtype)
        decoder = model.get_decoder().config
        self.cache = EncoderDecoderCache(
            StaticCache(config=decoder, max_cache_len=tgt),
            StaticCache(config=decoder, max_cache_len=inputs.src),
        )
        # Sized by the encoder's layers; what the decoder does not use stays uninitialised.
        self.layers = (
            self.cache.self_attention_cache.layers,
            self.cache.cross_attention_cache.layers,
        )
        built = time.perf_counter()
        self.prefill()  # eager once: caches are allocated where nothing is traced
        self.first, self.next = self.prefill, self.step
        if compiled:
            self.first = torch.compile(self.prefill, dynamic=False, fullgraph=True)
            self.next = torch.compile(self.step, dynamic=False, fullgraph=True)
        if device.type == "cuda":
            self.first, self.next = self.captured(self.first), self.captured(self.next)
        self.build_us = (time.perf_counter() - built) * 1e6

    def captured(self, call: Any) -> Any:
        """`call` as a CUDA graph, after warming up on a side stream."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.set_position(min(1, self.inputs.tgt - 1))
                call()
        torch.cuda.current_stream().wait_stream(stream)
        self.set_position(min(1, self.inputs.tgt - 1))
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return graph.replay

    def set_position(self, position: int) -> None:
        """The number of tokens that the self-attention cache holds."""
        for layer in self.layers[0]:
            if layer.is_initialized:
                layer.cumulative_length.fill_(position)

    def forward(self, ids: torch.Tensor, first: torch.Tensor) -> None:
        """Decoder inputs `ids` [batch, n] at positions `first`, `first` + 1, ...; the token that follows."""
        query = first + torch.arange(ids.shape[1], device=ids.device)
        seen = self.places[None, :] <= query[:, None]
        lowest = torch.finfo(self.hidden.dtype).min
        mask = torch.zeros_like(seen, dtype=self.hidden.dtype).masked_fill(
            ~seen, lowest
        )
        out = self.hf(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.hidden),
            attention_mask=self.source_mask,
            decoder_input_ids=ids,
            decoder_attention_mask=mask[None, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        logits = out.logits[:, -1]
        token = logits.argmax(-1, keepdim=True)
        self.last_logits.copy_(logits)
        self.token.copy_(token)
        self.tokens.index_copy_(1, query[-1:], token)

    def encode(self) -> None:
        """Encoder, and empty caches."""
        encoder = self.hf.get_encoder()
        out = encoder(input_ids=self.inputs.ids, attention_mask=self.source_mask)
        self.hidden.copy_(out.last_hidden_state)
        for layers in self.layers:
            for layer in layers:
                if layer.is_initialized:
                    layer.cumulative_length.zero_()
        for i in self.cache.is_updated:
            self.cache.is_updated[i] = False

    def prefill(self) -> None:
        """Encoder, keys and values of the source, and the first step."""
        self.encode()
        self.forward(self.start, torch.zeros_like(self.places[0]))

    def step(self) -> None:
        """One step on the token of the step before; the cache counts on the device."""
        # Copied: the cache adds to its count before the forward pass has used it everywhere.
        self.forward(self.token, self.layers[0][0].cumulative_length.clone())

    def fill(self) -> None:
        """The cache as suite_decoder's step finds it."""
        assert self.prefix is not None
        forced = torch.from_numpy(self.prefix).to(self.inputs.device)
        self.encode()
        before = forced[:, : max(1, self.inputs.tgt - 1)].contiguous()
        self.forward(before, torch.zeros_like(self.places[0]))
        self.forced = forced[:, -1:].contiguous()

    def repeat(self) -> dict[str, float]:
        """One sample."""
        if self.prefix is not None:
            return self.repeat_step()
        steps = self.inputs.tgt - 1
        start = self.clock.mark()
        self.first()
        first = self.clock.mark()
        for _ in range(steps):
            self.next()
        end = self.clock.mark()
        times = {
            "total_us": self.clock.us(start, end),
            "first_token_us": self.clock.us(start, first),
        }
        if steps > 0:
            times["step_us"] = self.clock.us(first, end) / steps
        return times

    def repeat_step(self) -> dict[str, float]:
        """One sample of suite_decoder: the step at position tgt."""
        if not hasattr(self, "forced"):
            self.fill()
        self.set_position(self.inputs.tgt - 1)
        self.token.copy_(self.forced)
        start = self.clock.mark()
        self.next()
        end = self.clock.mark()
        return {"total_us": self.clock.us(start, end)}

    def logits(self, steps: int) -> torch.Tensor:
        """Of the first steps (suite_decoder: of the measured one), [batch, steps, vocab], in fp32."""
        if self.prefix is not None:
            self.repeat_step()
            return self.last_logits[:, None].float().clone()
        self.first()
        rows = [self.last_logits.float().clone()]
        for _ in range(steps - 1):
            self.next()
            rows.append(self.last_logits.float().clone())
        return torch.stack(rows, dim=1)

    def close(self) -> None:
        """Frees graphs and caches."""
        del self.first, self.next, self.cache, self.layers
        gc.collect()


def truth_of(model: Any) -> Any:
    """The same weights, rounded alike, in a model that computes in fp32 with eager attention."""

    for name in ("_compiled_call", "_last_compile_config"):
        model.__dict__.pop(name, None)
    truth = copy.deepcopy(model).float()
    truth.set_attn_implementation("eager")
    return truth


def forced_logits(
    truth: Any, inputs: Inputs, decoder_inputs: torch.Tensor, keep: int
) -> torch.Tensor:
    """Logits of the last `keep` of the forced steps, without a cache and a sequence at a time, [batch, keep, vocab]."""
    rows = []
    for b in range(inputs.batch):
        length = int(inputs.mask[b].sum())
        out = truth(
            input_ids=inputs.ids[b : b + 1, :length],
            decoder_input_ids=decoder_inputs[b : b + 1],
            use_cache=False,
        )
        rows.append(out.logits[:, -keep:])
    return torch.cat(rows)
