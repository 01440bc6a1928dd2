#!/usr/bin/env python3
"""Hugging Face transformers as an engine, on the weights and inputs of Tandem's own.

    tandem run suites/generate.json --engine hf --timeout 1800 --peer hf="PYTHON scripts/peers/hf/engine.py --kind hf"
    tandem run suites/decode.json --engine hf-step --timeout 1800 \
        --peer hf-step="PYTHON scripts/peers/hf/engine.py --kind hf-step"

PYTHON has numpy, torch and transformers (5.23 is what this was written against).

`hf` is generate(): static cache, step compiled by transformers on a GPU. A sample is the whole call; step_us is from
the encoder's end to the call's, over tgt. `hf-step` computes the same without generate()'s host work: one CUDA graph
of encoder, keys and values of the source and first step, one of a step, compiled, replayed. Its sample is encoder and
tgt steps in suite_generate, the step at position tgt in suite_decoder; step_us is the mean replay.

The check of a case is transformers against itself: logits along the timed form's own first 8 tokens against fp32 with
eager attention, no cache, no compiler, a sequence at a time, on weights rounded alike; these tokens against that
truth's arg-max, a difference excused where the truth's margin is under twice the logit error. Digests are of all tokens.

What torch's compiler makes of a graph is kept in the user's cache folder (TORCHINDUCTOR_CACHE_DIR says otherwise), so
that the check, the timed processes and cases of equal shapes compile it once.

transformers' M2M100 takes a generated pad for padding, another way with a cache than without, and Tandem's engines do
not: what follows one is left out of the check, and tokens after it differ from theirs.
"""

from __future__ import annotations

import argparse
import array
import hashlib
import importlib.util
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from twin.sampling import median, take_samples  # needs the path above

MAX_LOGITS = 1 << 27  # compared of one case: 0.5 GB in fp32
CHECKED_TOKENS = 8  # of each sequence: its truth in fp32 has no cache, and takes longer the longer it goes on
TOLERANCE = {"fp32": 1e-5, "tf32": 2e-3, "fp16": 4e-3, "bf16": 2e-2}
# Axes that this engine has one value of.
ONLY = {
    "kv": "same",
    "sparsity": "dense",
    "calibration": "none",
    "head": "same",
    "tp": 1,
    "dp": 1,
    "allreduce": "auto",
    "decode": "greedy",
    "stop": "fixed",
    "kernel": "auto",
    "memory": "level1",
}
SUITES = {"hf": ("generate",), "hf-step": ("generate", "decoder")}


def missing_packages() -> list[str]:
    """What must be installed first."""
    return [
        name
        for name in ("numpy", "torch", "transformers")
        if importlib.util.find_spec(name) is None
    ]


def unsupported(case: dict[str, Any], kind: str) -> str | None:
    """Why this engine does not compute the case, or None. Cheap: torch is not imported."""
    missing = missing_packages()
    if missing:
        return f"engine: {kind} needs the Python packages {' '.join(missing)}, which {sys.executable} lacks"
    from hf.families import UnsupportedError

    if case["suite"] not in SUITES[kind]:
        return (
            f"suite: {kind} measures {' and '.join(SUITES[kind])}, not {case['suite']}"
        )
    if case["precision"] not in TOLERANCE:
        return (
            f"precision: {kind} computes {' '.join(TOLERANCE)}, not {case['precision']}"
        )
    for axis, value in ONLY.items():
        if case[axis] != value:
            return f"{axis}: {kind} computes '{value}' only, not '{case[axis]}'"
    try:
        model_of(case)
    except (UnsupportedError, ValueError, KeyError, TypeError, OSError) as e:
        return str(e)
    return None


def model_of(case: dict[str, Any]) -> tuple[Any, str | None]:
    """The model of a case and its family; no family for a checkpoint, which transformers reads itself."""
    from twin.model import load_model, parse_seed

    from hf.families import UnsupportedError, checkpoint_model, family_of

    folder = Path(case["model"])
    if folder.is_dir() and "/" in case["model"]:
        if case["weights"] != "checkpoint":
            raise UnsupportedError(
                "weights: a checkpoint folder is measured with its own weights"
            )
        m = checkpoint_model(folder)
        if m.decoder.layers > m.encoder.layers:
            raise UnsupportedError(
                "model: transformers sizes its static cache by the encoder's fewer layers"
            )
        return m, None
    parse_seed(case["weights"])
    m = load_model(case["model"])
    return m, family_of(m)


def share_compiled() -> None:
    """Keeps compiled graphs where the next process finds them. Before torch is imported, which reads this once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache / "tandem" / "inductor"))
    for name in ("TORCHINDUCTOR_FX_GRAPH_CACHE", "TORCHINDUCTOR_AUTOGRAD_CACHE"):
        os.environ.setdefault(name, "1")


class Engine:
    """What all cases of one process share: device, model, weights, precision."""

    def __init__(self, args: argparse.Namespace) -> None:
        share_compiled()
        import torch
        import transformers

        from hf import runners

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.torch, self.hf, self.kind = torch, runners, args.kind
        cuda = torch.cuda.is_available()
        self.device = torch.device(f"cuda:{args.device}" if cuda else "cpu")
        if cuda:
            torch.cuda.set_device(self.device)
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
        driver = Path("/proc/driver/nvidia/version").exists()
        # A card that torch cannot use would put times of the CPU beside floors of the card.
        self.no_device = (
            f"engine: torch {torch.__version__} sees no GPU, though a driver is loaded"
            if driver and not cuda and not hidden
            else None
        )
        self.compiled = args.compile == "on" or (args.compile == "auto" and cuda)
        self.versions = (
            f"transformers {transformers.__version__}, torch {torch.__version__}"
        )
        self.loaded: Any = None
        self.group = ""
        self.load_us = 0.0

    def refuses(self, case: dict[str, Any]) -> str | None:
        """What only torch can tell."""
        if case["precision"] == "tf32" and self.device.type != "cuda":
            return "precision: tf32 needs a GPU"
        return self.no_device

    def set_tf32(self, allowed: bool) -> None:
        """For products in fp32."""
        self.torch.backends.cuda.matmul.allow_tf32 = allowed
        self.torch.backends.cudnn.allow_tf32 = allowed

    def load(self, case: dict[str, Any]) -> Any:
        """The model of the case, in its precision."""
        self.set_tf32(case["precision"] == "tf32")
        group = f"{case['model']} {case['weights']} {case['precision']}"
        if self.group == group:
            return self.loaded
        start = time.perf_counter()
        self.loaded, self.group = None, ""
        m, family = model_of(case)
        dtype = self.hf.DTYPES[case["precision"]]
        if family is None:
            self.loaded = self.hf.checkpoint(Path(case["model"]), dtype, self.device)
        else:
            self.loaded = self.hf.seeded_model(
                m, family, case["weights"], dtype, self.device
            )
        if self.device.type == "cuda":
            self.torch.cuda.synchronize()
            self.torch.cuda.empty_cache()
        self.load_us = (time.perf_counter() - start) * 1e6
        self.group = group
        return self.loaded

    def prepare(self, case: dict[str, Any]) -> Any:
        """The case, ready to be repeated."""
        from twin.model import decoder_prefix, source_batch

        m, _ = model_of(case)
        model = self.load(case)
        if self.device.type == "cuda":
            self.torch.cuda.reset_peak_memory_stats()
        sources = source_batch(m, case["lengths"], case["batch"], case["src"])
        inputs = self.hf.Inputs(m, sources, case["tgt"], self.device)
        if self.kind == "hf":
            return self.hf.Generate(model, inputs, self.compiled)
        prefix = (
            decoder_prefix(m, case["batch"], case["tgt"])
            if case["suite"] == "decoder"
            else None
        )
        return self.hf.Step(model, inputs, prefix, self.compiled)


def tokens_of(workload: Any) -> Any:
    """Generated ids [batch, tgt]; suite_decoder: the arg-max of the step, [batch, 1]."""
    if getattr(workload, "prefix", None) is not None:
        return workload.tokens[:, -1:]
    return workload.tokens


def digest(tokens: Any) -> str:
    """SHA-256 as Tandem's engines have it for suite_generate: equal where the tokens are."""
    numbers = array.array("i", tokens.reshape(-1).tolist())
    return hashlib.sha256(b"0x0;" + numbers.tobytes()).hexdigest()


def judge(case: dict[str, Any], engine: Engine, workload: Any) -> dict[str, Any]:
    """The check of what the workload has computed, against fp32."""
    torch, inputs = engine.torch, workload.inputs
    tokens = tokens_of(workload).clone()
    forced_step = getattr(workload, "prefix", None) is not None
    vocab = engine.loaded.config.vocab_size
    keep = (
        1
        if forced_step
        else min(
            max(1, MAX_LOGITS // (inputs.batch * vocab)), inputs.tgt, CHECKED_TOKENS
        )
    )
    got = workload.logits(keep)
    if forced_step:
        decoder_inputs = torch.from_numpy(workload.prefix).to(engine.device)
    else:
        start = torch.full_like(tokens[:, :1], inputs.model.decoder_start_id)
        decoder_inputs = torch.cat([start, tokens[:, : keep - 1]], dim=1)
    same = torch.equal(tokens_of(workload)[:, :keep], tokens[:, :keep])
    workload.close()
    engine.set_tf32(False)
    truth = engine.hf.truth_of(engine.loaded)
    expected = engine.hf.forced_logits(truth, inputs, decoder_inputs, keep)
    del truth
    compared = torch.ones_like(tokens[:, :keep], dtype=torch.bool)
    if engine.loaded.config.model_type == "m2m_100":
        pads = (decoder_inputs == inputs.model.pad_id).cumsum(1)
        compared = pads[:, -keep:] == 0
    difference, norm, highest = 0.0, 0.0, []
    for row in range(inputs.batch):  # in fp64, a sequence at a time
        live = compared[row][:, None]
        off = (got[row].double() - expected[row].double()) * live
        difference += float(off.square().sum())
        norm += float((expected[row].double() * live).square().sum())
        highest.append(off.abs().amax(-1))
    error = math.sqrt(difference / norm) if norm > 0 else math.inf
    best = expected.max(-1)
    chosen = expected.gather(-1, tokens[:, :keep, None])[..., 0]
    differ = compared & (tokens[:, :keep] != best.indices)
    excused = differ & ((best.values - chosen).double() < 2 * torch.stack(highest))
    wrong = int((differ & ~excused).sum())
    config = engine.loaded.config
    layers = config.num_hidden_layers + model_of(case)[0].decoder.layers
    tolerance = TOLERANCE[case["precision"]] * math.sqrt(max(1.0, layers / 4))
    check = {
        "reference": f"{engine.versions}: fp32, eager, no cache, on weights rounded alike",
        "error": error if math.isfinite(error) else None,
        "tolerance": tolerance,
        "tokens_equal": wrong == 0,
        "tokens_compared": int(compared.sum()),
        "tokens_excused": int(excused.sum()),
        "digest": digest(tokens),
    }
    reason = None
    if not error <= tolerance:  # NaN is no error that is allowed
        reason = (
            f"relative L2 error {error:.3g} over {tolerance:.3g} against its own fp32"
        )
    elif wrong:
        reason = f"{wrong} of {int(compared.sum())} tokens differ from its own fp32"
    elif not same:
        reason = "a second run chose other tokens"
    return {"status": "invalid" if reason else "ok", "reason": reason, "check": check}


def validate(case: dict[str, Any], engine: Engine) -> dict[str, Any]:
    """The line of the validation pass."""
    workload = engine.prepare(case)
    workload.repeat()
    return judge(case, engine, workload)


def measure(
    case: dict[str, Any],
    engine: Engine,
    check: dict[str, Any],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """The line of the timed worker, its samples written before."""
    workload = engine.prepare(case)
    cpu = engine.device.type == "cpu"
    samples, said = take_samples(workload, cpu)
    after = digest(tokens_of(workload))
    check = {**check, "digest_after": after}
    peak = None if cpu else engine.torch.cuda.max_memory_allocated()
    build_us = getattr(workload, "build_us", None)
    workload.close()
    if after != check["digest"]:
        return {
            "status": "invalid",
            "reason": "the tokens after timing are not those that were checked",
            "check": check,
        }
    data = array.array("f", [s["total_us"] for s in samples]).tobytes()
    file = f"samples/{case['id']}-{args.worker}.f32"
    (args.out / file).write_bytes(data)
    made = case["batch"] * (case["tgt"] if case["suite"] == "generate" else 1)
    total_us = median([s["total_us"] for s in samples])
    metrics = {
        "step_us": median([s["step_us"] for s in samples if "step_us" in s]),
        "first_token_us": median(
            [s["first_token_us"] for s in samples if "first_token_us" in s]
        ),
        "tokens_per_second": made / total_us * 1e6 if total_us else None,
        "graph_build_us": build_us,
        "load_us": engine.load_us,
    }
    return {
        "status": "ok",
        "samples": {
            "file": file,
            "n": len(samples),
            "sha256": hashlib.sha256(data).hexdigest(),
        },
        "check": check,
        "metrics": metrics,
        "memory": {"peak_bytes": peak},
        "regime": "cpu" if cpu else "sustained",  # a second of warm-up went before
        "l2": "in_situ",  # as the last repetition left it
        **said,
    }


def guarded(
    case: dict[str, Any], engine: Engine, body: Any
) -> tuple[dict[str, Any], bool]:
    """What `body` returns, or its failure as a line; and whether this process is beyond use."""
    torch = engine.torch
    try:
        with torch.no_grad():
            return body(), False
    except torch.OutOfMemoryError as e:
        engine.loaded, engine.group = None, ""
        return {"status": "oom", "reason": str(e).splitlines()[0]}, False
    # Whatever torch's compiler and transformers throw is this case's failure.
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        ImportError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as e:
        engine.loaded, engine.group = (
            None,
            "",
        )  # hooks and compiled calls of this case go with it
        text = f"{type(e).__name__}: {str(e).strip() or 'no message'}".splitlines()[0]
        sticky = "CUDA error" in str(e) or type(e).__name__ == "AcceleratorError"
        return {"status": "error", "reason": text[:500]}, sticky


def checks_of(folder: Path) -> dict[str, Any]:
    """The validation pass's checks by case; the last line of a case counts."""
    checks = {}
    path = folder / "validation.jsonl"
    for text in path.read_text().splitlines() if path.exists() else ():
        line = json.loads(text)
        checks[line["id"]] = line["check"]
    return checks


def main() -> int:
    """One line of JSON for each case, in the order given."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--kind", choices=tuple(SUITES), required=True)
    parser.add_argument(
        "--compile",
        choices=("auto", "on", "off"),
        default="auto",
        help="torch.compile; auto: on a GPU. generate() itself compiles on a GPU only",
    )
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--worker", type=int)
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--supported", action="store_true")
    args, _ = parser.parse_known_args()
    checks = {} if args.validate or args.supported else checks_of(args.out)
    engine: Engine | None = None
    for case in json.loads(args.cases.read_text()):
        reason = unsupported(case, args.kind)
        line: dict[str, Any] = {
            "status": "skipped" if reason else "ok",
            "reason": reason,
        }
        sticky = False
        if reason is None and not args.supported:
            engine = engine or Engine(args)
            reason = engine.refuses(case)
            if reason:
                line = {"status": "skipped", "reason": reason}
            elif args.validate:
                line, sticky = guarded(
                    case, engine, lambda c=case, e=engine: validate(c, e)
                )
            elif checks.get(case["id"]):
                check = checks[case["id"]]
                line, sticky = guarded(
                    case,
                    engine,
                    lambda c=case, e=engine, k=check: measure(c, e, k, args),
                )
            else:
                line = {
                    "status": "error",
                    "reason": "validation.jsonl has no check of this case",
                }
        if args.validate:
            line = {"check": None, **line}
        print(json.dumps({"id": case["id"], **line}), flush=True)
        if sticky:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
