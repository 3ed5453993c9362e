"""Where time goes, the released way of sampling, what a state costs, and a model of a step's cost; tools/cpu.py and tools/gpu.py measure with it.

    python tools/speed.py

prints what the stored records of `sar bench` say: steps predicted from one step of size tiny, and planned GPU hours."""
from __future__ import annotations
import re, sys, time
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pandas as pd
import torch
from torch.profiler import profile
from torch.utils._pytree import tree_leaves

from sar_repro.engine.core import ModelConfig, get_size
from sar_repro.engine.files import read_json
from sar_repro.engine.kernels import filter_logits
from sar_repro.engine.machine import autocast, snapshot
from sar_repro.jobs.runs import RunFolder
from sar_repro.jobs.speed import PASSES, flops, matmul_rate
from sar_repro.models import start_models
from sar_repro.scale_ar import FlexVAR, sample


_PARTS = (  # of a step or a sample, by names of operations and of what calls them; the first fits
    ("update", "update"),
    ("head loss", "_HeadLoss"),
    ("products", "aten::(add)?mm$"),
    ("convolutions", "conv"),
    ("attention", "aten::(baddbmm|bmm|_scaled_dot_product)|softmax of 4"),
    ("GELU", "aten::gelu"),
    ("drawing", "softmax|cumsum|searchsorted|topk|sort|gather|nonzero|max$|aten::(gt|index)"),
)


def _part(event):
    names, at = [event.name], event.cpu_parent
    if "softmax" in event.name and event.input_shapes:  # attention's has heads
        names = [f"softmax of {len(event.input_shapes[0])}"]
    while at is not None:
        names, at = [*names, at.name], at.cpu_parent
    callers = ("update", "head loss", "convolutions")  # whatever they call is theirs
    for part, pattern in _PARTS:
        if any(re.search(pattern, n) for n in (names if part in callers else names[:1])):
            return part
    return "norms, modulation, copies"


def profiled(
    work,  # Called twice to warm up, once to be timed, and once to be taken apart
) -> pd.DataFrame:  # Index part: seconds (of the processor), share, TFLOP, share of R
    """Where one thread's time goes, by the operations it calls. What the profiler keeps lies
    between large tensors, and new ones need new memory: so `attrs` has the seconds without it."""
    clock, rows = time.process_time, {}

    def timed():
        start = clock()
        work()
        return clock() - start

    with patch.object(time, "perf_counter", clock):
        work()
        work()
        rate, alone = matmul_rate(reps=3), timed()
        with profile(record_shapes=True, with_flops=True) as seen:
            took = timed()
        rate = (rate + matmul_rate(reps=3)) / 2
    for e in seen.events():
        row = rows.setdefault(_part(e), [0.0, 0.0])
        row[0] += e.self_cpu_time_total
        row[1] += (e.flops or 0) / 1e12
    table = pd.DataFrame.from_dict(rows, "index", columns=["seconds", "TFLOP"])
    table["share"] = table.seconds / table.seconds.sum()
    table["seconds"] = took * table.share  # by the wall, it would count other programs, too
    table["share of R"] = 1e12 * table.TFLOP / table.seconds / rate
    table.attrs |= dict(R=rate, seconds=alone)
    return table.sort_values("seconds", ascending=False)


@torch.no_grad()
def released_sampling(
    model: FlexVAR,  # In evaluation mode
    vae,  # Its tokenizer
    labels: torch.Tensor,  # int64 (B,)
    guidance: float = 0.0,  # Strength, growing over the scales
    top_k: int = 0,  # See `filter_logits`
    top_p: float = 0.0,  # See `filter_logits`
) -> torch.Tensor:  # float (B, 3, H, W)
    "Pictures drawn as the released code draws them, with its ways of computing."
    scales, B, book = model.cfg.scales, len(labels), vae.quantize
    cond = model.class_emb(torch.cat([labels, torch.full_like(labels, model.cfg.num_classes)]))
    x, tokens, caches = cond[:, None] + model.pos_start, [], [_Joined() for _ in model.blocks]
    for k, p in enumerate(scales):
        h = model.trunk(x + model.positions((p,)), cond, None, caches)
        cond_, none = model.head(model.head_nm(h, cond)).float().chunk(2)
        t = guidance * k / max(1, min(len(scales) - 1, 9))
        kept = filter_logits((1 + t) * cond_ - t * none, top_k, top_p).softmax(-1)
        tokens.append(torch.multinomial(kept.flatten(0, 1), 1, replacement=True).view(B, -1))
        if k + 1 < len(scales):
            _, codes = book.step(None, tokens[-1], k, scales)
            x = model.word_embed(codes.repeat(2, 1, 1))
    return vae.decode(tokens[-1])


class _Joined:  # a cache that is joined anew for each map
    k = v = None

    def add(self, k, v):
        self.k = k if self.k is None else torch.cat([self.k, k], 2)
        self.v = v if self.v is None else torch.cat([self.v, v], 2)
        return self.k, self.v


def sampling_pairs(
    size: str = "d16",  # A name in `SIZES`, of base FlexVAR
    batch: int = 2,  # Pictures
    rounds: int = 3,  # Pairs, after one that is not counted
    warm: int = 1,  # Pairs that are not counted
) -> list:  # Of dicts: seconds of the processor for the released way, and for ours
    "Both ways of drawing in turns, on one thread's clock: other programs may run beside."
    spec, rows = get_size(size), []
    model, vae = (m.eval() for m in start_models(size, random=True))
    labels, clock = torch.zeros(batch, dtype=torch.long), time.process_time
    how = dict(guidance=spec.guidance, top_k=spec.top_k, top_p=spec.top_p)
    for _ in range(rounds + warm):
        start = clock()
        with autocast("cpu"):
            released_sampling(model, vae, labels, **how)
        middle = clock()
        sample(model, vae, labels, batch_size=batch, **how)
        rows.append(dict(released=middle - start, ours=clock() - middle))
    return rows[warm:]


def saving_pairs(
    state: dict,  # As a run writes it
    folder,  # An empty folder
    rounds: int = 3,  # Pairs
) -> list:  # Of dicts: GB, and for how many seconds the steps stand still, either way
    "A state written at once, and one that is copied to be written behind."
    where, rows = RunFolder(folder, dict(method="none", start="none")), []
    size = sum(t.nbytes for t in tree_leaves(state) if torch.is_tensor(t)) / 1e9
    for i in range(rounds):
        start = time.perf_counter()
        where.save(i, state)
        middle = time.perf_counter()
        snapshot(state)
        rows.append(dict(GB=size, written=middle - start, copied=time.perf_counter() - middle))
    return rows


def state_of(
    model: FlexVAR,  # Any
) -> dict:  # Weights, and moments as large as they are
    "A state as large as one of a training."
    weights = model.state_dict()
    moments = {n: (torch.zeros_like(w), torch.zeros_like(w)) for n, w in weights.items()}
    return dict(model=weights, opt=moments)


def traffic(
    cfg: ModelConfig,  # Sizes
    batch: int = 1,  # Pictures
    scales: tuple = None,  # Schedule; None = the model's
    size: int = 2,  # Bytes a number
) -> float:  # Bytes
    """Least memory traffic of an unfused forward pass of all scales: each result is written and
    read once."""
    scales = tuple(scales or cfg.scales)
    L, D = sum(p * p for p in scales), cfg.embed_dim
    weights = cfg.depth * (12 + 6) * D * D + D * cfg.vocab_size
    block = L * (16 + 2 * cfg.mlp_ratio) * D + 2 * cfg.num_heads * L * L
    return 2 * size * batch * (cfg.depth * block + 2 * L * cfg.vocab_size) + 4 * weights


def predicted_time(
    cfg: ModelConfig,  # Sizes
    kind: str,  # A name in `PASSES`
    batch: int,  # Pictures
    rate: float,  # R, operations a second
    between: float,  # Bytes a second that the operations between products get
) -> float:  # Seconds
    "Cost model: products at R, then everything between them at the speed of memory."
    return PASSES[kind] * (flops(cfg, batch) / rate + traffic(cfg, batch) / between)


def fitted_between(
    record: dict,  # Of `bench`
) -> float:  # Bytes a second
    "What the teacher-forced step of a record leaves for the operations between its products."
    cfg, rate, n = get_size(record["size"]).model, 1e12 * record["R_TFLOPs"], record["batch"]
    return (
        PASSES["tf"]
        * traffic(cfg, n)
        / (record["steps"]["tf"]["seconds"] - PASSES["tf"] * flops(cfg, n) / rate)
    )


def check_cost_model(
    records: list,  # Records of `bench`
    # The size whose teacher-forced step gives the one free number of its machine
    fit: str = "tiny",
) -> pd.DataFrame:  # machine, size, kind; seconds measured and predicted, and their ratio
    "Predict the steps of all records of a machine from one step of one size."
    rows, given = [], {r["machine"]: fitted_between(r) for r in records if r["size"] == fit}
    for r in records:
        if r["machine"] not in given:
            continue
        guess = lambda k: predicted_time(
            get_size(r["size"]).model, k, r["batch"], 1e12 * r["R_TFLOPs"], given[r["machine"]]
        )
        rows += [
            dict(
                machine=r["machine"],
                size=r["size"],
                kind=k,
                measured=r["steps"][k]["seconds"],
                predicted=guess(k),
            )
            for k in PASSES
        ]
    return (
        pd.DataFrame(rows)
        .assign(**{"predicted/measured": lambda t: t.predicted / t.measured})
        .set_index(["machine", "size", "kind"])
    )


def cost_table(
    use: float = 0.4,  # Assumed model-FLOPs use on a GPU
    hardware={"A100": 312e12, "H100": 989e12},  # Peak bf16 operations a second
) -> pd.DataFrame:  # One row a size
    "Predicted GPU hours of ten epochs of SAR on ImageNet (1.28 million pictures)."
    rows = []
    for size in ("d16", "d20", "d24"):
        work = flops(get_size(size).model, 1_281_167) * PASSES["sar, guided"] * 10
        rows.append(
            dict(
                size=size,
                **{"EFLOP, ten epochs": work / 1e18},
                **{f"{h} hours (planned)": work / (use * r) / 3600 for h, r in hardware.items()},
            )
        )
    return pd.DataFrame(rows).set_index("size")


if __name__ == "__main__":
    records = [r for p in sorted((ROOT / "results").glob("speed-*.json")) if (r := read_json(p))["device"] == "cpu"]
    print("Steps on CPUs, predicted from one step of size tiny:", check_cost_model(records).round(2).to_string(), sep="\n")
    print("\nTen epochs on ImageNet:", cost_table().round(1).to_string(), sep="\n")
