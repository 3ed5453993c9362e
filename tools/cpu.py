"""Where a CPU's time goes at a published size, and what each form costs: profiles, attention, the head, steps, sampling, decoding, states.

    python tools/cpu.py [--out results/cpu] [--parts profiles,steps] [--dry]

Each part writes one record as soon as it is measured; a part that fails says why and the rest goes on. It wants a quiet
machine with 16 GB for half an hour. With --dry it takes small shapes, a minute, and its figures mean nothing."""
import statistics, sys, tempfile, time
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import accumulate
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT/'tools')]

import torch
import torch.nn.functional as F

from parts import main
from sar_repro.engine.core import get_size
from sar_repro.engine.kernels import ScaleMask, attend, head_loss
from sar_repro.models import start_models
from sar_repro.jobs.speed import PASSES, Stand, flops, matmul_rate
from sar_repro.scale_ar import FlexVAR, causal_mask, sample
from speed import profiled, sampling_pairs, saving_pairs, state_of

@contextmanager
def threads(n):
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try: yield
    finally: torch.set_num_threads(before)

@contextmanager
def dense_mask(model):
    "The mask without its scales: every score is computed, as where the mask is all that is known."
    model.attention_mask = causal_mask
    try: yield
    finally: del model.attention_mask

def draws(size, pictures):
    "Pictures of random weights, guided and decoded, by the sampler."
    spec, (model, vae) = get_size(size), (m.eval() for m in start_models(size, random=True))
    how = dict(guidance=spec.guidance, top_k=spec.top_k, top_p=spec.top_p, batch_size=pictures)
    return partial(sample, model, vae, torch.zeros(pictures, dtype=torch.long), **how)

def profiles(dry):
    "One thread: where the time of steps and of sampling goes, and at which share of R."
    works = [('mini', 'tf', 2), ('mini', 'sampling', 2)] if dry else [
        ('d16', 'tf', 2), ('d16', 'sar last, as released', 2), ('d16', 'sampling', 2), ('tiny', 'sar', 64), ('tiny', 'sampling', 16)]
    rows = []
    for size, work, pictures in works:
        do = draws(size, pictures) if work == 'sampling' else partial(Stand(size, pictures).step, work)
        with threads(1): table = profiled(do)
        parts = table[['seconds', 'TFLOP']].round(4).to_dict('index')
        rows.append(dict(size=size, work=work, pictures=pictures, R_TFLOPs=table.attrs['R']/1e12, seconds=table.attrs['seconds'], parts=parts))
    return dict(works=rows)

def attention(dry):
    "One layer, forward and backward, one thread: under the mask and scale by scale, written out and fused."
    size, rounds = ('tiny', 1) if dry else ('d16', 5)
    cfg = get_size(size).model
    mask, shape = causal_mask(cfg.scales), (2, cfg.num_heads, cfg.seq_len, cfg.embed_dim//cfg.num_heads)
    q, k, v = (torch.randn(shape, requires_grad=True) for _ in range(3))
    by_scale = ScaleMask(mask, tuple(accumulate(p * p for p in cfg.scales)))
    forms = {'under the mask, written out': lambda: (q @ k.mT + mask).softmax(-1) @ v,
             'under the mask, fused': lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0),
             'scale by scale': lambda: attend(q, k, v, by_scale)}
    took = {name: [] for name in forms}
    with threads(1):
        for _ in range(rounds + 1):
            for name, form in forms.items():
                start = time.process_time()
                form().sum().backward()
                took[name].append(time.process_time() - start)
    return dict(size=size, pictures=2, seconds={name: statistics.median(t[1:]) for name, t in took.items()})

def head(dry):
    "The head's loss, forward and backward, one thread: in blocks, all logits at once, and PyTorch's own (a mean only; from 2.14 on)."
    cfg, rounds = get_size('mini' if dry else 'd16').model, 1 if dry else 5
    layer, tokens = torch.nn.Linear(cfg.embed_dim, cfg.vocab_size), torch.randint(cfg.vocab_size, (2, cfg.seq_len))
    hidden = torch.randn(2, cfg.seq_len, cfg.embed_dim, requires_grad=True)
    forms = {'in blocks': lambda: head_loss(hidden, layer, tokens).mean(),
             'all at once': lambda: F.cross_entropy(layer(hidden).flatten(0, 1), tokens.flatten())}
    if own := getattr(F, 'linear_cross_entropy', None):
        forms["PyTorch's"] = lambda: own(hidden.flatten(0, 1), layer.weight, tokens.flatten(), linear_bias=layer.bias)
    took, losses = {name: [] for name in forms}, {}
    with threads(1):
        for _ in range(rounds + 1):
            for name, form in forms.items():
                start = time.process_time()
                loss = form()
                loss.backward()
                took[name].append(time.process_time() - start)
                losses[name] = loss.item()
    return dict(losses=losses, tokens=tokens.numel(), seconds={name: statistics.median(t[1:]) for name, t in took.items()})

def steps(dry):
    "Whole steps in turns, one thread and its clock: dense mask, scale by scale, compiled blocks (which take the mask)."
    size, rounds, kinds = ('tiny', 1, ('tf',)) if dry else ('d16', 4, ('tf', 'sar last, as released'))
    stand, rows = Stand(size, 1), []
    stand.model.compile_blocks()
    compiled = stand.model.compiled
    forms = {'dense mask': (None, True), 'scale by scale': (None, False), 'compiled': (compiled, False)}
    with threads(1), patch.object(time, 'perf_counter', time.process_time):
        for r in range(rounds + 1):
            for kind in kinds:
                for name, (blocks, dense) in forms.items():
                    stand.model.compiled = blocks
                    rate = matmul_rate(reps=3)
                    with dense_mask(stand.model) if dense else nullcontext(): took = stand.step(kind)
                    if r: rows.append(dict(round=r, kind=kind, form=name, seconds=took, R_TFLOPs=rate/1e12))
    return dict(size=size, pictures=1, forward_TFLOP=flops(stand.cfg, 1)/1e12, passes=PASSES, rows=rows)

def sampling(dry):
    "The released way of drawing and ours in turns, seconds of one thread."
    size = 'mini' if dry else 'd16'
    with threads(1): return dict(size=size, pictures=2, rows=sampling_pairs(size, 2, 1 if dry else 3, 1))

def decoding(dry):
    "The decoder as it is and compiled, in turns, one thread."
    size, rounds = ('mini', 1) if dry else ('d16', 4)
    vae, cfg = start_models(size, random=True)[1].eval(), get_size(size).model
    codes = torch.zeros(2, cfg.scales[-1]**2, dtype=torch.long)
    took = dict(plain=[], compiled=[])
    with torch.no_grad(), threads(1):
        for _ in range(rounds + 1):
            for name in took:
                vae.decoder._compiled_call_impl = None
                if name == 'compiled': vae.decoder.compile(dynamic=False)
                vae.decode(codes)  # the first compiles
                start = time.process_time()
                vae.decode(codes)
                took[name].append(time.process_time() - start)
    return dict(size=size, pictures=2, seconds=took)

def saving(dry):
    "A state written at once, and one that is only copied: for how long the steps stand still."
    rows = []
    for size in ('mini',) if dry else ('tiny', 'd16'):
        model = FlexVAR(get_size(size).model) if size != 'd16' else start_models(size, random=True)[0]
        with tempfile.TemporaryDirectory() as d: rows += [dict(state=size, **r) for r in saving_pairs(state_of(model), d, 1 if dry else 3)]
    return dict(rows=rows)

PARTS = dict(profiles=profiles, attention=attention, head=head, steps=steps, sampling=sampling, decoding=decoding, saving=saving)

if __name__ == '__main__': main('cpu.py', __doc__, PARTS, ROOT/'results/cpu')
