"""What a GPU does here: golden tensors, ceilings, forms of attention, steps plain and compiled, float16, sampling, CUDA graphs, states, and a training of size small.

    python tools/gpu.py --out results/gpu [--parts ceilings,steps] [--dry]

Each part writes one record as soon as it is measured; a part that fails says why and the rest goes on. With --dry
everything runs on the CPU in a few seconds, on small shapes, and its figures mean nothing."""
import statistics, sys, tempfile, time, warnings
from dataclasses import dataclass, field, fields, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT/'tools')]

import pandas as pd
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from parts import main
from sar_repro.engine.core import SarError, TrainConfig, get_size
from sar_repro.engine.kernels import Replay
from sar_repro.models import start_models
from sar_repro.data import load_dataset
from sar_repro.jobs.own import STEPS, own_tokenizer, plan_tokenizer, train_arms
from sar_repro.jobs.parity import check_file
from sar_repro.jobs.runs import ToyTokens, toy_model, train_run
from sar_repro.engine.machine import autocast
from sar_repro.tokenizer import Batch
from sar_repro.jobs.speed import KINDS, PASSES, Stand, bench, flops, matmul_rate, sampling_time
from sar_repro.evaluate import evaluate_model
from sar_repro.scale_ar import causal_mask, cast_models, draw_group
from sar_repro.strategies import get_loss
from speed import saving_pairs, state_of


def seconds(work, rounds, device):
    "Median time of `work`, and the same as one CUDA graph, without the launches (None on a CPU)."
    def timed(f):
        times = []
        for _ in range(rounds + 3):
            wait(device)
            start = time.perf_counter()
            f()
            wait(device)
            times.append(time.perf_counter() - start)
        return statistics.median(times[3:])
    eager = timed(work)
    if device.type == 'cpu': return eager, None
    side = torch.cuda.Stream()  # capture wants a work that has run on another stream
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side): work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph): work()
    return eager, timed(graph.replay)

def wait(device):
    if device.type == 'cuda': torch.cuda.synchronize()

def golden(dry, device):
    "Every golden file of the repository, computed on the device in float32."
    files = sorted((ROOT/'data/golden').glob('*_small.safetensors'))
    rows = {f.name: check_file(f, device) for f in files}
    return dict(ok=all(r['ok'] for rs in rows.values() for r in rs), files=rows)

def ceilings(dry, device):
    "A square product, and a copy from device memory to device memory (bytes read and written)."
    n, size = (256, 2**20) if dry else (8192, 2**30)
    x = torch.randn(size, device=device)
    y = torch.empty_like(x)
    copy, _ = seconds(lambda: y.copy_(x), 20, device)  # a captured copy is slower: not a ceiling
    return dict(side=n, TFLOPs=matmul_rate(device, n)/1e12, copied_bytes=x.nbytes, copy_TBs=2*x.nbytes/copy/1e12)

class Grouped(torch.autograd.Function):
    """The first scales under a small mask, every later scale in one call on its prefix, without a mask. Gradients of
    the parts are added in place: slices that autograd cuts write and add whole tensors, a part at a time."""
    @staticmethod
    def forward(ctx, q, k, v, ends, first):
        e, ctx.parts = ends[first], []
        for a, b in ((0, e), *zip(ends[first:], ends[first + 1:])):
            some = [t.detach().requires_grad_() for t in (q[:, :, a:b], k[:, :, :b], v[:, :, :b])]
            with torch.enable_grad(): ctx.parts.append((a, b, some, F.scaled_dot_product_attention(*some, attn_mask=None if a else ends.mask[:e, :e].contiguous())))
        return torch.cat([out.detach() for *_, out in ctx.parts], 2)

    @staticmethod
    def backward(ctx, up):
        sums = None
        for a, b, some, out in reversed(ctx.parts): # the last part sees all keys: its gradients are what the others are added to
            own = torch.autograd.grad(out, some, up[:, :, a:b])
            if sums is None: sums = [torch.empty_like(up), *own[1:]]
            else:
                for whole, part in zip(sums[1:], own[1:]): whole[:, :, :b] += part
            sums[0][:, :, a:b] = own[0]
        return *sums, None, None

def by_cudnn(form):
    "The same form, where only cuDNN's kernels may be taken: one that they cannot do says so."
    def held():
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION): return form()
    return held

def tried(form):
    "Why a form cannot be had here, in one line; '' where it can."
    try: form().sum().backward()
    except RuntimeError as e: return str(e).splitlines()[0]
    return ''

class Ends(list):
    "Where each scale begins, and the causal mask of the whole sequence, as the model adds it."
    def __init__(self, scales, device, dtype):
        super().__init__([sum(p*p for p in scales[:i]) for i in range(len(scales) + 1)])
        self.mask = causal_mask(scales, device, dtype)[0, 0]

def attention(dry, device):
    "One layer's attention, forward and backward: the mask as it is, grouped by scale, both by cuDNN alone, flex_attention."
    cfg, rows = get_size('tiny' if dry else 'd16').model, []
    dtype = torch.float32 if dry else torch.bfloat16
    ends, heads = Ends(cfg.scales, device, dtype), cfg.num_heads
    L, width = ends[-1], cfg.embed_dim//heads
    for batch in (2,) if dry else (16, 64):
        q, k, v = (torch.randn(batch, heads, L, width, device=device, dtype=dtype, requires_grad=True) for _ in range(3))
        up = torch.randn_like(q)
        forms = dict(masked=lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=ends.mask))
        for first in (len(cfg.scales)//2, len(cfg.scales)//2 + 2): forms[f'grouped after scale {first}'] = lambda first=first: Grouped.apply(q, k, v, ends, first)
        if not dry:
            forms |= {f'{name}, cuDNN': by_cudnn(form) for name, form in forms.items()}
            blocks, flex = create_block_mask(lambda b, h, i, j: ends.mask[i, j] == 0, None, None, L, L, device=str(device)), torch.compile(flex_attention)
            forms['flex'] = lambda: flex(q, k, v, block_mask=blocks)
        few = [t.detach()[:2].double().requires_grad_() for t in (q, k, v)]
        exact = F.scaled_dot_product_attention(*few, attn_mask=ends.mask.double())
        exact.backward(up[:2].double())
        slope = torch.stack([t.grad for t in few])
        for name, form in forms.items():
            if why := tried(form):
                rows.append(dict(form=name, pictures=batch, said=why))
                continue
            def both():
                q.grad = k.grad = v.grad = None
                form().backward(up)
            with torch.no_grad(): error = ((form()[:2].double() - exact).norm()/exact.norm()).item()
            both()
            found = torch.stack([t.grad[:2].double() for t in (q, k, v)])
            gradient_error = ((found - slope).norm()/slope.norm()).item()
            eager, graph = seconds(both, 3 if dry else 20, device)
            rows.append(dict(form=name, pictures=batch, seconds=eager, graph_seconds=graph, error=error, gradient_error=gradient_error))
    best = {n: min((r for r in rows if r['pictures'] == n and 'seconds' in r), key=lambda r: r['graph_seconds'] or r['seconds'])['form'] for n in {r['pictures'] for r in rows}}
    return dict(quickest=best, dtype=str(dtype), tokens=L, heads=heads, rows=rows)

@dataclass
class Held(Batch):
    "A batch whose noise lies where a recorded step finds it."
    held: dict = field(default_factory=dict)

    def noise(self, stream, n):
        key = stream, len(self.index), n
        if key not in self.held: self.held[key] = super().noise(stream, n)
        return self.held[key]

class Whole(Stand):
    "Steps that are functions of tensors, nothing asked in between: passes, clipping and update as one CUDA graph."
    def held_batch(self):
        batch = self.fresh_batch()
        return Held(**{f.name: getattr(batch, f.name) for f in fields(Batch)})

    def work(self, kind, batch, keys, tokens, labels, *noises):
        cfg = TrainConfig(**KINDS[kind])
        batch = replace(batch, tokens=tokens, labels=labels, held=dict(zip(keys, noises)))
        self.opt.zero_grad(set_to_none=True)
        losses = get_loss(cfg.method)(self.model, batch, cfg)
        while True:
            with autocast(self.device, self.precision): got = next(losses, None)
            if got is None: break
            got[1].backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)
        self.opt.step()
        return batch.held

    def begin(self, kind):
        "A step as it is, which tells what noise it asks for; the next are recorded, then replayed."
        for group in self.opt.param_groups: group['capturable'] = self.device.type == 'cuda'
        batch = self.held_batch()
        self.keys = tuple(self.work(kind, batch, (), batch.tokens, batch.labels))
        self.kind, self.fixed, self.replay = kind, partial(self.work, kind, batch, self.keys), Replay()

    def step(self, kind):
        if getattr(self, 'kind', None) != kind: self.begin(kind)
        wait(self.device)
        start, batch = time.perf_counter(), self.held_batch()
        for stream, _, n in self.keys: batch.noise(stream, n)
        self.replay(self.fixed, batch.tokens, batch.labels, *(batch.held[k] for k in self.keys))
        wait(self.device)
        return time.perf_counter() - start

def whole(dry, device):
    "Whole steps as one CUDA graph beside the same steps as they are, in turns; whether both end with the same weights."
    size, rounds, rows = ('mini', 2, []) if dry else ('d16', 5, [])
    for batch in (2,) if dry else (16, 64):
        for kind in ('tf', 'sar'):
            stands = {'plain': Stand(size, batch, device), 'graph': Whole(size, batch, device)}
            if not dry:
                for stand in stands.values(): stand.model.compile_blocks()
            times = {name: [] for name in stands}
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter('always')
                stands['plain'].step(kind) # the graph's first step is one more, see `begin`
                for _ in range(rounds + 3):
                    for name, stand in stands.items(): times[name].append(stand.step(kind))
            pairs = [*zip(*(s.model.parameters() for s in stands.values()))]
            off = max((a - b).abs().max().item() for a, b in pairs)
            said = [str(w.message) for w in told if 'CUDA graph' in str(w.message)]
            rows += [dict(form=name, kind=kind, pictures=batch, seconds=statistics.median(t[3:]), weights_off=off, said=said) for name, t in times.items()]
            stands.clear()
            if device.type == 'cuda': torch.cuda.empty_cache()
    return dict(size=size, rows=rows)

def steps(dry, device):
    "The step with plain and with compiled blocks, in turns; memory is what a step adds to nothing."
    size, rounds, rows = ('tiny', 1, []) if dry else ('d16', 5, [])
    ceiling = matmul_rate(device, 256 if dry else None)
    for batch in (2,) if dry else (16, 64):
        stands, memory, first = {}, {}, {}
        forms = {'plain': None, 'plain, bf16 between blocks': None}
        if not dry: forms |= {'compiled blocks': {}, 'compiled blocks, bf16 between': {}, 'compiled for any length': dict(dynamic=True)}
        for name, how in forms.items():
            held = torch.cuda.memory_allocated() if device.type == 'cuda' else 0
            stands[name] = Stand(size, batch, device)
            if how is not None: stands[name].model.compile_blocks(**how)
            if 'bf16' in name: stands[name].model.stream = torch.bfloat16
            if device.type == 'cuda': torch.cuda.reset_peak_memory_stats()
            first[name] = stands[name].step('sar')
            stands[name].step('sar')
            memory[name] = (torch.cuda.max_memory_allocated() - held)/1e9 if device.type == 'cuda' else None
        for kind in ('tf', 'sar'):
            times = {name: [] for name in stands}
            for r in range(rounds + 1):
                for name, stand in stands.items(): times[name].append(stand.step(kind))
            for name, t in times.items():
                took = statistics.median(t[1:])
                use = PASSES[kind]*flops(stands[name].cfg, batch)/took/ceiling
                rows.append(dict(form=name, kind=kind, pictures=batch, seconds=took, model_flops_use=use, memory_GB=memory[name], first_sar_seconds=first[name]))
        stands.clear()
        if device.type == 'cuda': torch.cuda.empty_cache()
    return dict(size=size, rounds=rounds, product_TFLOPs=ceiling/1e12, rows=rows)

def sampling(dry, device):
    "Seconds a picture in groups of several sizes, guided and decoded."
    groups = (2,) if dry else (20, 64, 100)
    return dict(size='tiny' if dry else 'd16', rows=[dict(pictures=n, seconds=sampling_time('tiny' if dry else 'd16', n, device)[0]) for n in groups])

def graphs(dry, device):
    "Groups as they are, as one CUDA graph, and with the decoder compiled as well: seconds a picture in turns, and whether the pictures are the same."
    size, groups, rows = ('mini', (2,), []) if dry else ('d16', (20, 64, 100), [])
    spec, (model, vae) = get_size(size), (m.to(device).eval().requires_grad_(False) for m in start_models(size, random=True))
    how = dict(guidance=spec.guidance, top_k=spec.top_k, top_p=spec.top_p)
    with torch.no_grad(), cast_models(model, vae, 'auto') as coder:
        group = partial(draw_group, model, vae, coder, model.cfg.scales, **how)
        forms = {'as it is': lambda: group, 'graph': lambda: partial(Replay(), group)}
        if not dry: forms['graph, decoder compiled'] = lambda: vae.decoder.compile(dynamic=False) or partial(Replay(), group)
        for n in groups:
            inputs = [(torch.randint(model.cfg.num_classes, (n,), device=device), torch.rand(n, model.cfg.seq_len, device=device)) for _ in range(2)]
            first = None
            for name, make in forms.items():
                vae.decoder._compiled_call_impl, (draw, said) = None, (make(), [])
                with warnings.catch_warnings(record=True) as told:
                    warnings.simplefilter('always')
                    for given in (*inputs, *inputs): out = draw(*given).clone() # recorded at the second, replayed with others after it
                    said = [str(w.message) for w in told if 'CUDA graph' in str(w.message)]
                first = out if first is None else first
                took = []
                for _ in range(1 if dry else 5):
                    wait(device)
                    start = time.perf_counter()
                    draw(*inputs[0])
                    wait(device)
                    took.append(time.perf_counter() - start)
                rows.append(dict(form=name, pictures=n, seconds=statistics.median(took)/n, equal=(out == first).float().mean().item(), said=said))
    return dict(size=size, rows=rows)

def fp16(dry, device):
    "A run in float16 beside one in float32 on random tokens (losses, skipped steps), and d16 steps of both halves of precision."
    cfg, logs = TrainConfig(epochs=3, batch_size=8, lr=1e-3, precision='fp32'), {}
    for precision in ('fp32', 'fp16'):
        with tempfile.TemporaryDirectory() as d: logs[precision] = train_run(toy_model(), ToyTokens(), get_loss('sar'), TrainConfig(**{**cfg.__dict__, 'precision': precision}), d).to_dict('list')
    rows, size, kinds = [], 'mini' if dry else 'd16', ('fp16',) if dry else ('bf16', 'fp16')
    for precision in kinds:
        stand = Stand(size, 2 if dry else 16, device, precision)
        rows.append(dict(precision=precision, seconds=statistics.median([stand.step('sar') for _ in range(2 if dry else 6)][1:])))
    return dict(size=size, logs={p: {k: l[k] for k in ('tf', 'csf', 'grad', 'skipped') if k in l} for p, l in logs.items()}, rows=rows)

def saving(dry, device):
    "A state written at once and one that is only copied: for how long the steps stand still."
    size = 'mini' if dry else 'd16'
    state = state_of(start_models(size, random=True)[0].to(device))
    with tempfile.TemporaryDirectory() as d: return dict(size=size, rows=saving_pairs(state, d, 2 if dry else 4))

def profile(dry, device):
    "One SAR step with compiled blocks, taken apart: the kernels that take longest."
    size, pictures = ('mini', 2) if dry else ('d16', 64)
    stand = Stand(size, pictures, device, compile=not dry)
    for _ in range(2): stand.step('sar')
    with torch.profiler.profile() as seen: stand.step('sar')
    spent = lambda e: (e.self_cpu_time_total if device.type == 'cpu' else e.self_device_time_total)/1e6
    rows = sorted(seen.key_averages(), key=spent, reverse=True)
    whole = sum(map(spent, rows))
    return dict(size=size, pictures=pictures, seconds=whole, rows=[dict(name=e.key[:80], calls=e.count, seconds=spent(e), share=spent(e)/whole) for e in rows[:30]])

def training(dry, device):
    "Tokenizer, start, SAR and its control of size small on emoji64, three seeds: logs, and distances where torch-fidelity is at hand."
    size, dataset, steps, seeds = ('mini', 'fashion16', (1, 1, 1), (0,)) if dry else ('small', 'emoji64', STEPS['full'], (0, 1, 2))
    limit, logs, distances = 64 if dry else None, {}, {}
    with tempfile.TemporaryDirectory() as d:
        made = plan_tokenizer(dataset, size=size, steps=steps[0], out_dir=f'{d}/tokenizer')
        own_tokenizer(made)
        n = limit or len(load_dataset(dataset, get_size(size).image_size, 'train'))
        for seed in seeds:
            arms = train_arms(Path(d)/f's{seed}', dataset, size, seed, steps[1:], n, made.weights, limit)
            for name, weights in arms.items():
                logs[f'{name} s{seed}'] = pd.read_csv(weights.parent/'log.csv').iloc[-1].to_dict()
                if find_spec('torch_fidelity') and not dry: distances[f'{name} s{seed}'] = evaluate_model(size, weights, dataset, 2000, seed)[1]['distances']
    return dict(size=size, dataset=dataset, steps=steps, seeds=seeds, last_epochs=logs, distances=distances)

def speed(size, batch):
    "A part that is `sar bench` of one size."
    def part(dry, device): return bench('tiny', device, 2, 1, memory=False) if dry else bench(size, device, batch, 3, memory=False)
    return part

PARTS = dict(golden=golden, steps=steps, whole=whole, ceilings=ceilings, attention=attention, sampling=sampling, graphs=graphs, fp16=fp16, saving=saving, profile=profile, d16=speed('d16', 16), d16_64=speed('d16', 64), d24=speed('d24', 24), training=training, small=speed('small', None), tiny=speed('tiny', None))

def there(dry):
    if not dry and not torch.cuda.is_available(): raise SarError('there is no GPU here: pass --dry to try the script on a CPU')

def placed(part):
    "The part on its device, which its record names."
    def run(dry):
        device = torch.device('cpu' if dry else 'cuda')
        return dict(device=device.type) | part(dry, device)
    return run

if __name__ == '__main__': main('gpu.py', __doc__, {name: placed(part) for name, part in PARTS.items()}, check=there)
