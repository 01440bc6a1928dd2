#!/usr/bin/env python3
"""The shortest engine, for `tandem run --peer example="python3 scripts/peers/example.py"`.

All that a program must do to be checked, timed and recorded by Tandem; the protocol is
one page, in harness/driver/session/protocol.h. It computes no transformer: its work is the
arg-max of a product of seeded integers, once for each sequence of the case.
"""

import argparse
import array
import hashlib
import json
import random
import time
from pathlib import Path

WIDTH, VOCAB, SAMPLES = 32, 128, 10


def compute(case, by_columns=False):
    """Arg-max for each sequence; `by_columns` is a second way to the same numbers."""
    draw = random.Random(f"{case['model']} {case['weights']}")
    rows = [[draw.randrange(-99, 100) for _ in range(WIDTH)] for _ in range(VOCAB)]
    tokens = []
    for sequence in range(case["batch"]):
        draw = random.Random(sequence)
        x = [draw.randrange(-99, 100) for _ in range(WIDTH)]
        if by_columns:
            y = [0] * VOCAB
            for j in range(WIDTH):
                y = [y[i] + rows[i][j] * x[j] for i in range(VOCAB)]
        else:
            y = [sum(row[j] * x[j] for j in range(WIDTH)) for row in rows]
        tokens.append(y.index(max(y)))
    return tokens


def sha256(data):
    """64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def validate(case):
    """The line of the validation pass: nothing is timed that was not checked."""
    tokens, truth = compute(case), compute(case, by_columns=True)
    check = {"reference": "by columns", "error": 0.0 if tokens == truth else 1.0}
    check |= {"tolerance": 0.0, "digest": sha256(str(tokens).encode())}
    if tokens == truth:
        return {"status": "ok", "reason": None, "check": check}
    return {"status": "invalid", "reason": "tokens differ", "check": check}


def measure(case, args, check):
    """The line of the timed worker, its samples written beside it."""
    samples = array.array("f")
    for _ in range(1 + SAMPLES):
        start = time.perf_counter_ns()
        tokens = compute(case)
        samples.append((time.perf_counter_ns() - start) / 1000)
    data = samples[1:].tobytes()  # without the warm-up
    check["digest_after"] = sha256(str(tokens).encode())
    if check["digest_after"] != check["digest"]:
        return {"status": "invalid", "reason": "other tokens now", "check": check}
    file = f"samples/{case['id']}-{args.worker}.f32"
    (args.out / file).write_bytes(data)
    reference = {"file": file, "n": SAMPLES, "sha256": sha256(data)}
    return {"status": "ok", "samples": reference, "check": check, "regime": "cpu"}


def main():
    """One line of JSON for each case, in the order given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--worker", type=int)
    parser.add_argument("--validate", action="store_true")
    args, _ = parser.parse_known_args()  # --device and the like are nothing to it
    checks = {}
    if not args.validate:
        for text in (args.out / "validation.jsonl").read_text().splitlines():
            checks[json.loads(text)["id"]] = json.loads(text)["check"]
    for case in json.loads(args.cases.read_text()):
        line = (
            validate(case) if args.validate else measure(case, args, checks[case["id"]])
        )
        print(json.dumps({"id": case["id"], **line}), flush=True)


if __name__ == "__main__":
    main()
