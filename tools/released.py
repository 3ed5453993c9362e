"""The released code and ours in turns: sampling, and a whole step of SAR, with the same random weights.

    python tools/released.py --flexvar FlexVAR --sar SAR

--flexvar is a checkout of github.com/jiaosiyu1999/FlexVAR, whose sampling is measured, and --sar one of
github.com/GengzeZhou/SAR, whose trainer takes the step; without --flexvar SAR's copy of it draws. Samples are guided
and decoded; a step encodes its pictures, makes both passes of the released form, clips and updates (AdamW).

Each side runs in a process of its own, which gives its memory; they take turns, each first in every second pair.
Before, both must compute the same logits, latents and pictures. Parts of theirs that only log are stood in for; both
sides compute without compiling unless --compile says so for ours. `fp32` keeps all digits (no TF32), `bf16` is autocast
on both. Ratios are theirs over ours. It wants a quiet machine, and at d16 24 GB of memory for 2 pictures, less with --trim.
With --size small (2 blocks, pictures of 64 pixels) it takes a minute, and its figures mean nothing."""
import argparse, ctypes, gc, importlib, inspect, json, os, statistics, subprocess, sys, tempfile, time, types
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
PARTS = dict(sampling='flexvar', step='sar')  # and the checkout that is measured
SOURCES = dict(flexvar='github.com/jiaosiyu1999/FlexVAR', sar='github.com/GengzeZhou/SAR')
FILES = dict(sampling=['models/flexvar.py', 'models/vq_llama.py'], step=['trainer.py', 'utils/amp_sc.py', 'dist.py'])
LOGS = 'utils.misc', 'utils.logger'  # theirs, which neither sampling nor a step calls: only annotations name them
SPARE = 'huggingface_hub',  # what their models import and never use
KIND = 'sar last, as released'  # of step, see `KINDS` of 88_speed

def sizes(asked):
    "What both sides need to know of the size."
    small = asked.size == 'small'
    depth = asked.depth or (2 if small else 16)
    scales = (1, 2, 3, 4) if small else (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    how = dict(depth=depth, scales=scales, codes=1024 if small else 8912, path=0.1 * depth / 24)
    return how | dict(guidance=2.2, top_k=900, top_p=0.95, classes=1000)

# Either side, in a process of its own

def now(device):
    import torch
    if device.type == 'cuda': torch.cuda.synchronize(device)
    return time.perf_counter(), time.process_time()

def peak(device):  # bytes
    import torch
    if device.type == 'cuda': return torch.cuda.max_memory_allocated(device)
    status = Path('/proc/self/status')  # a child inherits `ru_maxrss` from its parent
    if status.exists(): return 1024 * int(status.read_text().split('VmHWM:')[1].split()[0])
    import resource  # not on Windows
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)

def counter():
    "Counts operations of products and convolutions; PyTorch's leaves out a CPU's fused attention."
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
    forward = lambda q, k, v, *args, **more: sdpa_flop_count(q, k, v)
    backward = lambda g, q, k, v, *args, **more: sdpa_backward_flop_count(g, q, k, v)
    name, ops = '_scaled_dot_product_flash_attention_for_cpu', torch.ops.aten
    more = {getattr(ops, name): forward, getattr(ops, f'{name}_backward'): backward}
    return FlopCounterMode(display=False, custom_mapping=more)

class Side:
    "What the process of one side is asked: the same of both."
    def __init__(self, how):
        import torch
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self.how, self.device = how, torch.device(how['device'])
        torch.manual_seed(0)
        n, side = how['pictures'], 16 * how['scales'][-1]
        self.labels = torch.randint(how['classes'], (n,)).to(self.device)
        self.pictures = (2 * torch.rand(n, 3, side, side) - 1).to(self.device)
        self.build()
        self.work = getattr(self, how['part'])

    def turn(self, seed, count=False):
        if not count:
            start = now(self.device)
            self.work(seed)
            took = dict(zip(('seconds', 'processor'), (b - a for a, b in zip(start, now(self.device)))))
            self.trim()
            return took
        with counter() as seen: self.work(seed)
        self.trim()
        return dict(operations=seen.get_total_flops())

    def same(self):  # numbers that both sides must share
        import torch
        torch.manual_seed(1)
        scales, last = self.how['scales'], self.how['scales'][-1]
        inputs = torch.randn(1, sum(p * p for p in scales[1:]), 32).to(self.device)
        codes = torch.randint(self.how['codes'], (1, last * last)).to(self.device)
        with torch.no_grad():
            found = self.logits(self.labels[:1], inputs), self.latent(self.pictures[:1]), self.picture(codes)
        return [t.float().flatten()[:: max(1, t.numel() // 1000)].tolist() for t in found]

    def trim(self):
        if self.how['trim'] and sys.platform == 'linux': ctypes.CDLL(None).malloc_trim(0)

    def forget(self):
        "Peaks of building, comparing and counting; where the system cannot, they stay."
        import torch
        gc.collect()
        if self.device.type == 'cuda': return torch.cuda.reset_peak_memory_stats()
        try: Path('/proc/self/clear_refs').write_text('5')
        except OSError: pass

    def memory(self): return peak(self.device)

class Theirs(Side):
    def build(self):
        import torch
        how, (flexvar, vq, dist) = self.how, their_modules(self.how)
        with patch.object(dist, 'get_device', lambda: self.device):
            self.vae = vq.VQ_models['VQ-16'](codebook_size=how['codes'], codebook_embed_dim=32)
            width = dict(embed_dim=64 * how['depth'], num_heads=how['depth'], drop_path_rate=how['path'])
            shape = dict(num_classes=how['classes'], depth=how['depth'], attn_l2_norm=True, patch_nums=how['scales'])
            self.model = flexvar.FlexVAR(self.vae, **width, **shape)
        for net, name in (self.model, 'model'), (self.vae, 'vae'):
            load(net, torch.load(Path(how['weights'])/f'{name}.pt'))
            net.to(self.device)
        self.vae.eval().requires_grad_(False)
        if how['part'] == 'step': self.prepare_step()
        else: self.model.eval().requires_grad_(False)

    def autocast(self):
        import torch
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.how['precision'] == 'bf16')

    def prepare_step(self):
        import torch
        how, (trainer, amp) = self.how, their_trainer(self.how)
        groups = {}
        for p in self.model.parameters(): groups.setdefault(p.ndim > 1, []).append(p)
        groups = [dict(params=ps, weight_decay=0.05 * decay) for decay, ps in groups.items()]
        adam = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)
        opt = amp.AmpOptimizer(0, adam, [], list(self.model.parameters()), grad_clip=2.0)
        opt.amp_ctx = self.autocast()  # theirs is always CUDA's
        sides = tuple(16 * p for p in how['scales'])
        nets = dict(vae_local=self.vae, var_wo_ddp=self.model, var=self.model, var_opt=opt)
        recipe = dict(label_smooth=0.0, training_mode='csfl', sigma=0.01)
        self.trainer = trainer(device=self.device, patch_nums=how['scales'], resos=sides, **nets, **recipe)
        self.trainer.gen_curr_patch_nums = lambda: list(how['scales'])  # the same schedule on both sides

    def sampling(self, seed):
        import torch
        how = {k: self.how[k] for k in ('top_k', 'top_p')} | dict(cfg=self.how['guidance'], g_seed=seed)
        with torch.inference_mode(), self.autocast():
            drawn = self.model.autoregressive_infer_cfg(
                vqvae=self.vae, B=len(self.labels), label_B=self.labels, infer_patch_nums=self.how['scales'], **how)
        return (drawn.float() + 1).mul(127.5).round().clamp(0, 255).byte().cpu()

    def step(self, seed):
        never = types.SimpleNamespace(log_iters=10**9)
        self.model.train()
        self.trainer.train_step(it=1, g_it=1, stepping=True, metric_lg=never, tb_lg=None, prog_si=-1, prog_wp_it=1,
                                inp_B3HW=self.pictures, label_B=self.labels)

    def logits(self, labels, inputs):
        training, self.model.cond_drop_rate = self.model.training, 0.0  # it withholds classes when judged, too
        logits = self.model.eval()(labels, inputs, self.how['scales'])
        self.model.train(training).cond_drop_rate = 0.1
        return logits

    def latent(self, pictures): return self.vae.encode_conti(pictures)

    def picture(self, codes):
        p = self.how['scales'][-1]
        return self.vae.decode_code(codes, shape=[1, 32, p, p])

    def facts(self):
        attn = self.model.blocks[0].attn
        fast = [n for n, on in (('flash_attn', 'using_flash'), ('xformers', 'using_xform')) if getattr(attn, on, False)]
        return dict(stood_in=STOOD_IN, attention=', '.join(fast) or "PyTorch's")

class Ours(Side):
    def build(self):
        import torch
        from sar_repro.engine.core import TrainConfig, get_size
        from sar_repro.jobs import speed
        from sar_repro.models import make_tokenizer
        from sar_repro.tokenizer import encoder
        how, spec = self.how, get_size('d16')
        shape = dict(depth=how['depth'], embed_dim=64 * how['depth'], num_heads=how['depth'])
        model = replace(spec.model, vocab_size=how['codes'], scales=tuple(how['scales']), **shape)
        spec = replace(spec, model=model, tokenizer=replace(spec.tokenizer, vocab_size=how['codes']))
        with patch.object(speed, 'get_size', lambda _: spec):
            self.stand = speed.Stand('d16', how['pictures'], self.device, how['precision'], how['compile'])
        self.model, self.cfg = self.stand.model, TrainConfig(**speed.KINDS[KIND])
        self.vae = make_tokenizer(spec.tokenizer).to(self.device).eval().requires_grad_(False)
        self.stand.book, self.encode = self.vae.quantize, encoder(self.vae, how['precision'])
        if how['part'] == 'sampling': self.model.eval().requires_grad_(False)
        if not (place := Path(how['weights'])/'model.pt').exists():
            torch.save(self.model.state_dict(), place)
            torch.save(self.vae.state_dict(), place.with_name('vae.pt'))
        else:
            load(self.model, torch.load(place))
            load(self.vae, torch.load(place.with_name('vae.pt')))
        self.replay = None

    def turn(self, seed, count=False):
        from sar_repro.scale_ar import replay_for
        if self.how['part'] == 'sampling' and not count:  # a graph hides its operations from the counter
            self.replay = self.replay or replay_for('auto', self.model, self.vae, True)
        return super().turn(seed, count)

    def sampling(self, seed):
        from sar_repro.scale_ar import sample
        how = {k: self.how[k] for k in ('guidance', 'top_k', 'top_p', 'precision')}
        return sample(self.model, self.vae, self.labels.cpu(), seed, len(self.labels), fast=self.replay or False, **how)

    def fresh_batch(self):
        from sar_repro.tokenizer import Batch
        self.stand.count += 1
        tokens = self.vae.tokenize(self.encode(self.pictures), self.stand.cfg.scales)
        index = range(self.stand.count * len(tokens), (self.stand.count + 1) * len(tokens))
        how = self.stand.cfg.scales, self.vae.quantize, self.how['classes']
        return Batch(tokens, self.labels, torch_tensor(index), *how)

    def step(self, seed):
        self.model.train()
        with patch.object(self.stand, 'fresh_batch', self.fresh_batch): self.stand.step(KIND)

    def rate(self):
        import torch
        from sar_repro.jobs.speed import matmul_rate
        return matmul_rate(self.device, dtype=torch.bfloat16 if self.how['precision'] == 'bf16' else torch.float32, reps=5)

    def logits(self, labels, inputs):
        training = self.model.training
        logits = self.model.eval()(labels, inputs)
        self.model.train(training)
        return logits

    def latent(self, pictures): return self.vae.encode(pictures)
    def picture(self, codes):
        p = self.how['scales'][-1]
        return self.vae.decode_latent(self.vae.quantize.lookup(codes).mT.unflatten(-1, (p, p)))
    def facts(self): return {}

def torch_tensor(values):
    import torch
    return torch.tensor(list(values))

def load(net, weights):
    "Load all weights; buffers of theirs that are no weights may be missing."
    lacking, unknown = net.load_state_dict(weights, strict=False)
    lacking = [k for k in lacking if not k.endswith(('attn_bias_for_masking', 'codebook_used'))]
    if lacking or unknown: raise Missing(f'their {type(net).__name__} has other weights than ours: {(lacking + unknown)[0]} is on one side only')

class Missing(Exception): "A sentence for the reader: what is missing, and what to do."

class StandIn(types.ModuleType):
    "A module of which only names are asked."
    def __getattr__(self, name):
        if name.startswith('__'): raise AttributeError(name)
        return type(name, (), {})

STOOD_IN = []

def imported(name, how):
    "A module of their checkout; what it imports and neither measurement uses is stood in for."
    for log in LOGS: sys.modules.setdefault(log, StandIn(log))
    STOOD_IN[:] = [*LOGS, *(n for n in SPARE if isinstance(sys.modules.get(n), StandIn))]
    if how['folder'] not in sys.path: sys.path.insert(0, how['folder'])
    try: return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name in SPARE:
            sys.modules[e.name] = StandIn(e.name)
            return imported(name, how)
        raise Missing(f'{name} of {how["folder"]} needs {e.name}, which is not here: install it, or complete the checkout')
    except Exception as e: raise Missing(f'{name} of {how["folder"]} does not import ({type(e).__name__}: {e}): expected a checkout of {SOURCES[how["source"]]}')

def their_modules(how): return [imported(n, how) for n in ('models.flexvar', 'models.vq_llama', 'dist')]

def their_trainer(how):
    trainer, amp = (imported(n, how) for n in ('trainer', 'utils.amp_sc'))
    if 'training_mode' not in inspect.signature(trainer.VARTrainer.__init__).parameters:
        raise Missing(f'the trainer in {how["folder"]} knows no training_mode, so it is not SAR\'s: expected a checkout of {SOURCES["sar"]}')
    return trainer.VARTrainer, amp

def serve(how):
    "Answer the parent: a line of JSON for each line of JSON. What the code prints goes to stderr."
    out = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    if how['device'] == 'cpu': os.environ['CUDA_VISIBLE_DEVICES'] = ''
    if how['side'] == 'ours': sys.path.insert(0, str(ROOT))  # theirs sees nothing of ours, whose import sets how memory is kept
    def answer(**said): print(json.dumps(said), file=out, flush=True)
    try:
        side = dict(ours=Ours, theirs=Theirs)[how['side']](how)
        answer(ok=side.facts())
        for line in sys.stdin:
            name, args = json.loads(line)
            answer(ok=getattr(side, name)(**args))
    except Missing as e: answer(missing=str(e))

# The parent, which lets them take turns

class Process:
    "One side, and its answers."
    def __init__(self, side, how):
        self.side, self.log = side, tempfile.TemporaryFile('w+')
        words = [sys.executable, __file__, '--serve', json.dumps(how | dict(side=side))]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.facts = self.answer()

    def answer(self):
        from sar_repro.engine.core import SarError
        if line := self.process.stdout.readline():
            said = json.loads(line)
            if 'missing' in said: raise SarError(said['missing'])
            return said['ok']
        code = self.process.wait()
        self.log.seek(0)
        last = (self.log.read().strip().splitlines() or ['it said nothing'])[-1]
        why = 'was killed, most likely for want of memory: try --trim or --pictures 1' if code == -9 else f'ended early: {last}'
        raise SarError(f'the process of {self.side} {why}')

    def __call__(self, name, **args):
        try: print(json.dumps([name, args]), file=self.process.stdin, flush=True)
        except BrokenPipeError: pass  # the answer says why
        return self.answer()

    def close(self):
        self.process.kill()
        self.process.wait()

def check_same(theirs, ours):
    from sar_repro.engine.core import SarError
    for what, a, b in zip(('logits', 'latents', 'pictures'), theirs('same'), ours('same')):
        gap = max(abs(x - y) for x, y in zip(a, b)) / max(map(abs, a))
        if len(a) != len(b) or not gap < 1e-3:
            raise SarError(f'the two sides do not compute the same: their {what} differ from ours by {gap:.2g} of the largest, expected 0.001 at most')

def measure(how, pairs, say):
    "Pairs of one part in one precision, after those that warm up."
    sides = {}
    say(f'{how["part"]}, {how["precision"]}: both sides warm up')
    try:
        for name in ('ours', 'theirs'): sides[name] = Process(name, how)  # ours writes the weights
        check_same(sides['theirs'], sides['ours'])
        counted = {n: s('turn', seed=0, count=True)['operations'] for n, s in sides.items()}
        for side in sides.values(): side('forget')
        rows, warm = [], 2 if how['device'] == 'cuda' else 0  # where graphs are recorded; to count was a turn already
        for i in range(warm + pairs):
            row = dict(R_TFLOPs=sides['ours']('rate') / 1e12)
            for name in ('theirs', 'ours') if i % 2 else ('ours', 'theirs'): row[name] = sides[name]('turn', seed=1 + i)
            if i >= warm:
                rows.append(row)
                say(f'{how["part"]}, {how["precision"]}, pair {len(rows)} of {pairs}: theirs {row["theirs"]["seconds"]:.2f} s, ours {row["ours"]["seconds"]:.2f} s')
        memory = {n: s('memory') / 1e9 for n, s in sides.items()}
        return summary(rows, counted, memory) | dict(facts=sides['theirs'].facts)
    finally:
        for side in sides.values(): side.close()

def summary(rows, counted, memory):
    "Medians of both sides, and ratios theirs over ours with the smallest and the largest."
    middle = lambda values: statistics.median(list(values))
    found = dict(pairs=rows, R_TFLOPs=middle(r['R_TFLOPs'] for r in rows))
    for name in memory:
        seconds, tera = middle(r[name]['seconds'] for r in rows), counted[name] / 1e12
        products = middle(tera / r['R_TFLOPs'] for r in rows)
        found[name] = dict(seconds=seconds, processor=middle(r[name]['processor'] for r in rows), TFLOP=tera, memory_GB=memory[name],
                           products=products, share_of_R=middle(tera / r['R_TFLOPs'] / r[name]['seconds'] for r in rows))
    for clock in ('seconds', 'processor'):
        ratios = [r['theirs'][clock] / max(r['ours'][clock], 1e-9) for r in rows]
        found[f'ratio of {clock}'] = dict(median=middle(ratios), least=min(ratios), most=max(ratios))
    found['ratio if ours were products alone'] = found['theirs']['seconds'] / max(found['ours']['products'], 1e-9)
    return found

def sentence(part, precision, r):
    theirs, ours, ratio, bound = r['theirs'], r['ours'], r['ratio of seconds'], r['ratio if ours were products alone']
    return (f'{part}, {precision}: theirs {theirs["seconds"]:.2f} s and {theirs["memory_GB"]:.2f} GB at {theirs["share_of_R"]:.0%} of R, '
            f'ours {ours["seconds"]:.2f} s and {ours["memory_GB"]:.2f} GB at {ours["share_of_R"]:.0%}: '
            f'{ratio["median"]:.2f} [{ratio["least"]:.2f}, {ratio["most"]:.2f}] times as fast '
            f'(by the processor {r["ratio of processor"]["median"]:.2f}); our products alone would be {bound:.2f}')

def arguments():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, what in SOURCES.items(): parse.add_argument(f'--{name}', type=Path, help=f'checkout of {what}')
    parse.add_argument('--size', choices=('d16', 'small'), default='d16', help='small: a dry run')
    parse.add_argument('--depth', type=int, help='blocks (and 64 times as wide); default 16, small 2')
    parse.add_argument('--pictures', type=int, help='at a time; default 2, on a GPU 16')
    parse.add_argument('--pairs', type=int, default=5)
    parse.add_argument('--parts', default=','.join(PARTS), help='which, in this order')
    parse.add_argument('--precisions', default='fp32,bf16', help='which, in this order')
    parse.add_argument('--device', choices=('cpu', 'cuda'), help='default: a GPU if there is one')
    parse.add_argument('--compile', action='store_true', help='compile our blocks')
    parse.add_argument('--trim', action='store_true', help='a side gives free memory back after its turn, where both do not fit; ours, which keeps it, is slowed a little')
    parse.add_argument('--out', type=Path, help='the record; default results/released-d16-DEVICE.json, of other sizes none')
    return parse.parse_args()

def checked(asked):
    "What was asked for, complete; or a sentence on what is missing."
    import torch
    from sar_repro.engine.core import SarError, check_choice, shown
    asked.parts = [check_choice('part', n, PARTS) for n in asked.parts.split(',')]
    asked.precisions = [check_choice('precision', n, ('fp32', 'bf16')) for n in asked.precisions.split(',')]
    asked.device = asked.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    if asked.device == 'cuda' and not torch.cuda.is_available(): raise SarError('there is no GPU here: leave --device out')
    asked.pictures = (16 if asked.device == 'cuda' else 2) if asked.pictures is None else asked.pictures
    for name in ('pairs', 'pictures', 'depth'):
        if getattr(asked, name) is not None and getattr(asked, name) < 1: raise SarError(f'--{name} is {getattr(asked, name)}: expected at least 1')
    asked.dry = asked.size == 'small' or asked.depth not in (None, 16)
    if not asked.out and not asked.dry: asked.out = ROOT/f'results/released-d16-{asked.device}.json'
    if asked.out and not asked.out.parent.is_dir(): raise SarError(f'there is no folder {shown(asked.out.parent)} for the record: make it, or name another --out')
    asked.folders = {part: folder_for(part, asked) for part in asked.parts}
    return asked

def folder_for(part, asked):  # (name of the checkout, its folder)
    from sar_repro.engine.core import SarError
    name = 'sar' if part == 'step' or not asked.flexvar else 'flexvar'
    folder = getattr(asked, name)
    if folder is None: raise SarError(f'{part} needs the released code: clone {SOURCES[PARTS[part]]} and pass its folder as --{PARTS[part]}')
    for file in FILES['sampling'] + (FILES['step'] if part == 'step' else []):
        if not (folder/file).is_file(): raise SarError(f'there is no {file} in {folder}: expected a checkout of {SOURCES[name]}')
    return name, str(folder.resolve())

def commit_of(folder):
    done = subprocess.run(['git', '-C', folder, 'rev-parse', '--show-toplevel', 'HEAD'], capture_output=True, text=True)
    words = done.stdout.split()
    return words[1][:10] if len(words) == 2 and os.path.samefile(words[0], folder) else 'unknown'

def check_place(out):
    "A record of this machine may be measured anew; nothing else is overwritten."
    from sar_repro.engine.core import SarError, shown
    from sar_repro.engine.files import read_json
    from sar_repro.engine.machine import machine_class
    if out and out.exists():
        try: there = read_json(out).get('machine')
        except SarError: there = None
        if there != machine_class(): raise SarError(f'{shown(out)} is no record of this machine: name another --out')

def main():
    sys.path.insert(0, str(ROOT))
    from sar_repro.engine.core import SarError
    from sar_repro.engine.files import save_json
    from sar_repro.engine.machine import run_record
    asked = arguments()
    say = partial(print, flush=True)
    try:
        asked = checked(asked)
        check_place(asked.out)
        how, rows = sizes(asked), []
        how |= dict(pictures=asked.pictures, device=asked.device, compile=asked.compile, trim=asked.trim)
        for part, (source, folder) in asked.folders.items():
            for precision in asked.precisions:
                with tempfile.TemporaryDirectory() as weights:
                    found = measure(how | dict(part=part, precision=precision, source=source, folder=folder, weights=weights), asked.pairs, say)
                rows.append(dict(part=part, precision=precision, source=SOURCES[source], released=commit_of(folder)) | found)
                say(sentence(part, precision, found))
                if asked.out: save_json(asked.out, run_record(about='released code over ours', dry=asked.dry, **how, rows=rows))
        say(f'recorded in {asked.out}' if asked.out else 'nothing was recorded: a dry run; --out keeps it')
    except SarError as e: sys.exit(f'released.py: {e}')

if __name__ == '__main__':
    if sys.argv[1:2] == ['--serve']: serve(json.loads(sys.argv[2]))
    else: main()
