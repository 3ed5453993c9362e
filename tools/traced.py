"""What a GPU would be given, counted on a machine without one: kernels, bytes and arithmetic of a step and of sampling.

    python tools/traced.py

PyTorch can run a program on *fake* tensors, which have a shape, a type and a device, but no numbers, on a GPU that is
not there. So the very operations that it would be given can be listed and counted anywhere. Some doors have to be held
open: autocast looks for a GPU before it takes effect, fused attention is chosen by a look at the card (here it is the
memory-efficient kernel, the one that takes a mask), and the backward pass asks the device for its streams, so the graph
is walked here, from the last operation to the first. Views cost nothing; every other operation is one kernel at least,
which reads its inputs and writes its outputs. One that brings a number back from the device, or sends it memory that is
not pinned, is a question, and the program waits. tests/test_budget.py holds today's counts as bounds."""
from __future__ import annotations
import heapq, sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from sar_repro import scale_ar
from sar_repro.engine.core import get_size
from sar_repro.engine.files import read_json
from sar_repro.jobs.speed import PASSES, Stand, flops
from sar_repro.models import start_models
from sar_repro.scale_ar import draw_schedule
from sar_repro.tokenizer import encoder


_open = []  # the ledger that is written into, if there is one


@torch.no_grad()
def _walk(loss, *_, **__):  # the backward pass of a loss, without the engine
    given, waiting = {loss.grad_fn: {0: torch.ones_like(loss)}}, []

    def push(node):
        heapq.heappush(waiting, (-_number(node), id(node), node))

    push(loss.grad_fn)
    for ledger in _open:
        ledger.pass_ends()
    while waiting:
        node = heapq.heappop(waiting)[-1]
        grads = given.pop(node)
        for ledger in _open:
            ledger.block = ledger.of_block(node)
        if hasattr(node, "variable"):
            leaf, g = node.variable, grads[0].detach()
            leaf.grad = g if leaf.grad is None else leaf.grad + g
            continue
        inputs = [grads.get(i) for i in range(max(grads) + 1)]
        back = node.apply(*inputs) if hasattr(node, "apply") else node(*inputs)
        for (into, at), g in zip(node.next_functions, back if type(back) is tuple else (back,)):
            if into is None or g is None:
                continue
            want = into._input_metadata[at]  # sums over what was expanded are the engine's work
            g = g if g.shape == want.shape else g.sum_to_size(want.shape)
            g = g if g.dtype == want.dtype else g.to(want.dtype)
            if into not in given:
                given[into] = {}
                push(into)
            given[into][at] = given[into][at] + g if at in given[into] else g


def _number(node):  # leaves have the largest: they can wait no longer than the rest
    return -1 if hasattr(node, "variable") else node._sequence_nr()


def _attention(q, k, v, attn_mask=None, scale=None):  # what a card would choose, masked or not
    shape = *q.shape[:3], k.shape[2]
    bias = None if attn_mask is None else attn_mask.expand(shape)
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    return kernel(q, k, v, bias, True, scale=scale)[0]


def _move(module, device):  # fake tensors cannot be put into the place of others
    for m in module.modules():
        for name, p in m._parameters.items():
            if p is not None:
                there = torch.empty_like(p, device=device)
                m._parameters[name] = nn.Parameter(there, p.requires_grad)
        for name, b in m._buffers.items():
            m._buffers[name] = None if b is None else torch.empty_like(b, device=device)
    return module


def _scale_index(scales):  # its shape depends on numbers, which a fake tensor lacks
    with unset_fake_temporarily():
        return _REAL_INDEX(scales)


_REAL_INDEX = scale_ar.scale_index


@contextmanager
def pretended_gpu():
    "While it lasts, tensors are fake, and there seems to be a GPU with bfloat16."
    stand_in = (
        (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
        (torch.cuda, "synchronize", lambda *_: None),
        (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        (F, "scaled_dot_product_attention", _attention),
        (torch.Tensor, "backward", _walk),
        (torch.Tensor, "pin_memory", lambda t: t),
        (nn.init, "trunc_normal_", lambda t, *_, **__: t),
        (nn.Module, "to", _move),
        (scale_ar, "scale_index", _scale_index),
    )
    scale_ar.causal_mask.cache_clear()  # it must not hold fake masks afterwards, nor real ones now
    try:
        with ExitStack() as stack:
            for where, name, what in stand_in:
                stack.enter_context(mock.patch.object(where, name, what))
            yield stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
    finally:
        scale_ar.causal_mask.cache_clear()


@dataclass
class Entry:
    "One operation."

    name: str  # As PyTorch calls it
    kind: str  # 'product', 'attention', 'question' or 'other'
    flops: float  # Multiplications and additions
    reads: dict  # Storage -> bytes
    writes: dict  # Storage -> bytes
    block: bool  # Does it belong to a transformer block, which torch.compile fuses?
    back: bool = False  # Does it belong to a backward pass?


ASKS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "is_nonzero")


class Ledger(TorchDispatchMode):
    "Writes down each operation that is done while it is open."

    def __init__(self, model):  # whose blocks are told apart
        super().__init__()
        self.entries, self.alive, self.block, self.spans = [], [], False, []
        self.own = {p.untyped_storage()._cdata for p in model.parameters()}
        self.kept, self.saved = {}, 0  # by the running pass; most bytes that one kept
        self.back = False
        self.hooks = [f(h) for b in model.blocks for f, h in self._around(b)]

    def _around(self, block):  # block's operations are marked, forward; by their numbers, backward
        number = torch._C._autograd._get_sequence_nr

        def enter(*_):
            self.block, self.back, self.first = True, False, number()

        def leave(*_):
            self.block = False
            self.spans.append((self.first, number()))

        yield block.register_forward_pre_hook, enter
        yield block.register_forward_hook, leave

    def of_block(self, node):
        at = _number(node)
        return any(a <= at < b for a, b in self.spans)

    def __enter__(self):
        _open.append(self)
        self.saving = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda t: t)
        self.saving.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        _open.remove(self)
        self.saving.__exit__(*error)
        for hook in self.hooks:
            hook.remove()
        return super().__exit__(*error)

    def _keep(self, t):
        if t.device.type != "cpu" and t.untyped_storage()._cdata not in self.own:
            self.kept[t.untyped_storage()._cdata] = t.untyped_storage().nbytes()
        return t

    def total_flops(self):
        return sum(e.flops for e in self.entries)

    def pass_ends(self):  # a backward pass begins: what was kept for it is counted
        self.saved, self.kept = max(self.saved, sum(self.kept.values())), {}
        self.back = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func._overloadpacket.__name__
        out = func(*args, **kwargs)
        if func.namespace != "prim" and not _free(func, name):
            self._note(func, name, args, kwargs, out)
        return out

    def _note(self, func, name, args, kwargs, out):
        reads, writes = self._touched(name, args, kwargs, out)
        if not (reads or writes):  # of the host alone
            return
        count = flop_registry.get(func._overloadpacket)
        done = float(count(*args, **kwargs, out_val=out)) if count else 0.0
        kind = "attention" if "attention" in name else "product" if count else "other"
        on_host = lambda tree: any(t.device.type == "cpu" for t in _tensors(tree))
        waits = on_host(args) and name in ("_to_copy", "copy_") and not kwargs.get("non_blocking")
        if any(name.startswith(a) for a in ASKS) or on_host(out) or waits:
            kind = "question"
        self.entries.append(Entry(name, kind, done, reads, writes, self.block, self.back))

    def _touched(self, name, args, kwargs, out):
        "Bytes read and written; of a large tensor only what indices point at, of a model for others nothing."
        if name in ("zeros_like", "new_full", "new_zeros", "full_like", "ones_like"):
            return {}, self._bytes(out)
        if name == "gather":
            index, few = self._bytes(args[2]), self._bytes(out)
            return index | {args[0].untyped_storage()._cdata: sum(few.values())}, few
        if name == "scatter_add_":
            index = self._bytes(args[2:])
            few = {args[0].untyped_storage()._cdata: args[2].numel() * args[0].element_size()}
            return index | few, few
        return self._bytes((args, kwargs)), self._bytes(out)

    def _bytes(self, tree):
        found = {}
        for t in _tensors(tree):
            if t.device.type != "cpu":
                storage = t.untyped_storage()
                self.alive.append(storage)  # so that no later one has its number
                size = min(t.numel() * t.element_size(), storage.nbytes())
                found[storage._cdata] = max(size, found.get(storage._cdata, 0))
        return found


def _tensors(tree):
    return [t for t in torch.utils._pytree.tree_leaves(tree) if isinstance(t, torch.Tensor)]


def _free(func, name):  # views, and memory that is only set aside
    views = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
    return views or name in ("empty", "empty_like", "new_empty", "empty_strided", "_unsafe_view")


def fuse(
    entries: list,  # Of a `Ledger`
) -> list:  # `Entry`s, chains of a block put together
    """What is left of the kernels where chains between products of a block are one. What only the
    backward pass reads again is not kept but computed anew from what is: so does torch.compile, whose
    blocks keep 725 MB a block less than plain ones (results/gpu/steps.json, 64 pictures), 712 by this
    count."""
    last, out, made = {}, [], {}
    for i, e in enumerate(entries):
        last |= dict.fromkeys(e.reads, i)
        made |= {s: e.reads for s in e.writes if s not in e.reads}
    for i, e in enumerate(entries):
        chain = out[-1] if out and out[-1].block and out[-1].kind == "other" else None
        if not (chain and e.block and e.kind == "other"):
            out.append(Entry(e.name, e.kind, e.flops, dict(e.reads), dict(e.writes), e.block, e.back))
            continue
        chain.reads |= {k: v for k, v in e.reads.items() if k not in chain.writes}
        chain.writes = {k: v for k, v in chain.writes.items() if last.get(k, i + 1) > i}
        chain.writes |= e.writes
    return _recomputed(out, made)


def _recomputed(chains, made):  # made: storage -> what it was computed from
    between = lambda e: e.block and e.kind == "other"
    readers = {}
    for e in chains:
        for s in e.reads:
            readers.setdefault(s, []).append(e)
    gone = {}
    for e in chains:
        for s in list(e.writes) if between(e) and not e.back else ():
            again = readers.get(s, ())
            if again and all(between(r) and r.back for r in again):
                del e.writes[s]
                gone[s] = made[s]
    for e in chains:
        while lost := e.reads.keys() & gone.keys():
            s = lost.pop()
            del e.reads[s]
            e.reads = gone[s] | e.reads
    return chains


def _summary(entries):
    moved = lambda e: sum(e.reads.values()) + sum(e.writes.values())
    total = lambda kind: sum(e.flops for e in entries if e.kind == kind) / 1e12
    return {
        "kernels": len(entries),
        "questions": sum(e.kind == "question" for e in entries),
        "products, TFLOP": total("product"),
        "attention, TFLOP": total("attention"),
        "moved, GB": sum(map(moved, entries)) / 1e9,
        "between products, GB": sum(moved(e) for e in entries if e.kind == "other") / 1e9,
    }


class _Fake(Stand):
    def fresh_batch(self):
        batch = super().fresh_batch()
        with unset_fake_temporarily():  # noise is made from its numbers
            batch.index = torch.arange(self.batch)
        return batch


@lru_cache(4)
def traced_step(
    size: str,  # A name in `SIZES`
    kind: str,  # A name in `KINDS`
    batch: int,  # Pictures
    update: bool = True,  # Clipping and the optimizer too?
    stream: torch.dtype = None,  # Of what runs from block to block; None = float32
) -> Ledger:
    "The operations that one step gives to a GPU."
    with pretended_gpu():
        stand = _Fake(size, batch, "cuda", "bf16")
        stand.model.stream = stream
        for p in stand.model.parameters() if update else ():  # moments are there before the step
            p.grad = torch.zeros_like(p)
        if update:
            stand.update()
        with Ledger(stand.model) as ledger:
            stand.passes(kind)
            if update:
                stand.update()
    return ledger


def traced_sampling(
    size: str,  # A name in `SIZES`
    batch: int,  # Pictures
) -> Ledger:
    "The operations of drawing pictures, guided and decoded."
    spec = get_size(size)
    how = dict(guidance=spec.guidance, top_k=spec.top_k, top_p=spec.top_p, precision="bf16")
    with pretended_gpu():
        model, vae = (m.to("cuda").eval() for m in start_models(size, random=True))
        labels = torch.zeros(batch, dtype=torch.long)
        with Ledger(model) as ledger:
            scale_ar.sample(model, vae, labels, batch_size=batch, fast=False, **how)
    return ledger


def traced_group(
    size: str,  # A name in `SIZES`
    batch: int,  # Pictures
    rounds: int = 1,  # So many groups, one after the other
) -> list:  # A `Ledger` for each, and the storages that may be read without having been written
    "The operations of one group of pictures, as a CUDA graph would record them."
    spec, ledgers = get_size(size), []
    with pretended_gpu():
        models = start_models(size, random=True)
        model, vae = (m.to("cuda").eval().requires_grad_(False) for m in models)
        given = torch.zeros(batch, dtype=torch.long, device="cuda")
        given = given, torch.rand(batch, model.cfg.seq_len, device="cuda")
        with scale_ar.cast_models(model, vae, "bf16") as coder:
            own = [*model.parameters(), *vae.parameters(), *model.buffers(), *vae.buffers()]
            own = {t.untyped_storage()._cdata for t in (*own, *given)}
            how = dict(guidance=spec.guidance, top_k=spec.top_k, top_p=spec.top_p)
            for _ in range(rounds):
                with Ledger(model) as ledger:
                    scale_ar.draw_group(model, vae, coder, model.cfg.scales, *given, **how)
                ledgers.append(ledger)
    return ledgers, own


def kept_bytes(
    size: str,  # A name in `SIZES`
) -> float:  # Bytes a picture
    "Activations that a picture adds to what a backward pass needs."
    one, two = (traced_step(size, "tf", n, update=False).saved for n in (8, 16))
    return (two - one) / 8


# dense bf16 TFLOP/s and TB/s of memory, by their makers
DATASHEET = {"A100": (312, 2.04), "H100": (989, 3.35), "H200": (989, 4.8)}


def measured_rates():  # of an H200: products, attention (TFLOP/s), copies (TB/s)
    top, seen = (read_json(ROOT / f"results/gpu/{n}.json") for n in ("ceilings", "attention"))
    row = next(r for r in seen["rows"] if r["form"] == "masked" and r["pictures"] == 64)
    pairs = row["pictures"] * seen["heads"] * seen["tokens"] ** 2
    done = 3.5 * 4 * 64 * pairs / 1e12  # two products of 64 channels forward, five backward
    return top["TFLOPs"], done / row["graph_seconds"], top["copy_TBs"]


def seconds(
    entries: list,  # Of a `Ledger`, fused or not
    card: str = "H200",  # A name in `DATASHEET`
) -> float:
    "The least that a card needs, by its measured or scaled rates."
    products, attention, copies = measured_rates()
    compute, memory = (a / b for a, b in zip(DATASHEET[card], DATASHEET["H200"]))
    rate = lambda e: 1e12 * compute * (attention if e.kind == "attention" else products)
    moved = lambda e: sum(e.reads.values()) + sum(e.writes.values())
    return sum(max(e.flops / rate(e), moved(e) / (1e12 * memory * copies)) for e in entries)


def traced_encoding(
    side: int,  # Of the pictures in pixels
    batch: int,  # Pictures
) -> Ledger:
    "The operations of the published tokenizer's encoder."
    with pretended_gpu():
        model, vae = (m.to("cuda").eval() for m in start_models("d16", random=True))
        pictures = torch.empty(batch, 3, side, side, device="cuda")
        with Ledger(model) as ledger:
            encoder(vae, "bf16")(pictures)
    return ledger


def mean_length(n=2000):  # tokens of drawn schedules
    rng = np.random.default_rng(0)
    return sum(sum(p * p for p in draw_schedule(rng)) for _ in range(n)) / n


# --- what is printed

def against(row):
    "A measured row of tools/gpu.py, and what the ledger says."
    entries = traced_step("d16", row["kind"], row["pictures"]).entries
    least = seconds(fuse(entries) if row["form"] == "compiled blocks" else entries)
    use = PASSES[row["kind"]] * flops(get_size("d16").model, row["pictures"])
    shares = {"measured use": row["model_flops_use"], "least time's use": use / least / measured_rates()[0] / 1e12}
    return {k: row[k] for k in ("pictures", "kind", "form", "seconds")} | dict(least=least, share=least / row["seconds"]) | shares


def paper_hours(pictures=1_281_167, cards=32):
    "Least hours of the paper's run of d16: eleven epochs of the released step at the mean drawn length, 512-pixel crops encoded, 50,000 samples."
    step, share = traced_step("d16", "sar last, as released", 24), mean_length() / get_size("d16").model.seq_len
    encoding, drawing, rows = traced_encoding(512, 4), traced_sampling("d16", 20), []
    for card in DATASHEET:
        hours = lambda entries, n, of: seconds(entries, card) / of * n / cards / 3600
        row = {"card": card, "steps": share * hours(step.entries, 11 * pictures, 24)}
        row |= {"steps, blocks fused": share * hours(fuse(step.entries), 11 * pictures, 24)}
        rows.append(row | {"encoding": hours(encoding.entries, 11 * pictures, 4), "sampling": hours(drawing.entries, 50_000, 20)})
    return pd.DataFrame(rows).set_index("card")


if __name__ == "__main__":
    guided = traced_step("d16", "sar, guided", 16).entries
    print("A guided step of d16, 16 pictures:", pd.DataFrame({"as it is": _summary(guided), "blocks fused": _summary(fuse(guided))}).T.round(1).to_string(), sep="\n")
    steps = read_json(ROOT / "results/gpu/steps.json")["rows"]
    print("\nLeast seconds, and measured ones (H200):", pd.DataFrame(map(against, steps)).round(3).to_string(index=False), sep="\n")
    print("\nLeast hours of the paper's five on 32 cards:", paper_hours().round(3).to_string(), sep="\n")
    kept = {s: kept_bytes(s) / 1e6 for s in ("d16", "d24")}
    print("\nKept for the backward pass, MB a picture:", {s: round(v) for s, v in kept.items()})
