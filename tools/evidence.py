"""The evidence study: does SAR help as people sample, what does it do, what does better?

The protocol is section 15 of the project's method, decided before any run; here it stands with
the numbers of this study (`PROTOCOL` holds them). It was committed before the arms ran.

Regime. Fashion-MNIST at 32x32 (28 pixels, two black ones around), latent 8x8, schedule
(1,2,4,8) without copies, 2,048 codes, width 64, depth 4, fp32. 20,000 pictures of the training
split train the models, spread over the classes; the judge learns from the other 40,000, so no
picture that it saw is in a model's training, in the reference, or held out. The tokenizer sees
all 60,000. It must make at most a third of the control's distance to real held-out pictures.

1. Unit: the start, a training from nothing with its own seed. Six starts (0 to 5; a seventh, 6,
   is kept for whoever wants to see whether it falls into the intervals). The schedule has 18
   epochs; an arm replaces the last one, the last eighteenth of the schedule (the paper's dose:
   10 of 180), from the same fork, optimizer state and pictures.
2. Primary comparison, one, uncorrected: the log ratio of the Frechet distance to real held-out
   pictures, SAR as in the paper over teacher forcing, each at its own best sampling. Grid:
   guidance 0, .25, .5, .75, 1, 1.5 times top_p 1, .95. The best point of an arm of a start is
   the one of least distance to real pictures in 2,500 samples of sampling seed 1; it is judged
   on sampling seeds 11, 12, 13, 14 with 10,000 samples each: the mean of four distances. The
   mean over starts with Student's 95 % interval is the answer. Words: "helps" if all of it is
   below 0, "harms" if all of it is above, else "not told apart" with the interval and the least
   effect found four times in five. Everything else is described by intervals, without verdicts.
3. Reference: real held-out pictures and their reconstructions side by side, both sides of each
   (20,000 rows); distances in the 64 features of `evidence-judge`, seed 0 (mean square one).
   Beside them: KID, precision and recall (4,000 of each), share judged right.
4. Likelihood: 2,000 held-out pictures, 256 proposals in 8 rounds (the drift from 128 to 256 is
   shown); intervals over starts and pictures together.
5. Depth and width: (1,8), (1,3,8), (1,2,4,8), (1,2,3,5,8) and width 32, 64, 128 and 192 at
   (1,2,4,8), four starts each, 6 epochs with the fork at 5; the slope of the primary log ratio
   over log2(maps) and over log2(weights).
6. What SAR does: entropy of each map after true, one-step and free context; and the control at
   a temperature, tau 1.05, 1.1, 1.2 for all maps and 1.2 for one map at a time, at every
   guidance, laid upon the curves of distance and of class-rightness of SAR and SAR x 10. An
   explanation is refuted if the curve of the tau that meets SAR's distance at guidance 0 leaves
   SAR's by more than the spread over starts elsewhere.
7. Price: teacher forcing for 2.1 and 4.4 epochs in place of the last one (the rate falls over
   the same range). Passes of each arm are counted: a forward pass is one, with gradient three.
8. Rivals, each one epoch from the same fork: `resample 4th` (resampled coarse maps every fourth
   step), `e-step` (coarse maps resampled by the frozen fork, 8 proposals), `student` (a second
   pass in a freely drawn context, the teacher's distribution in true context as target, weight
   .1), `ddo` (strength 1, whose optimum is the data), `chain` (8 Metropolis-Hastings steps a
   picture from the truth; coarse maps where they end), and `rounds` (a hybrid trunk of its own:
   4x4 drawn in four rounds, then 8x8; 18 epochs of teacher forcing). "Better" means against
   teacher forcing of equal compute or more, at each arm's best sampling, with the whole
   interval below 0.

`python tools/evidence.py queue` does what has no record yet, piece after piece, and goes on
where it was stopped; `plan` lists the pieces; `piece NAME` does one; `table` shows what is
known. SAR_EVIDENCE names the folder of weights (runs/evidence); records go to results/evidence."""

from __future__ import annotations

import copy
import fcntl
import json
import math
import os
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import brentq
from scipy.stats import nct
from scipy.stats import t as student_t
from torch import nn

from sar_repro import core
from sar_repro.core import ModelConfig, ROOT, Size, TokenizerConfig, WORK, order_rng
from sar_repro.csfl import csf_loss, tf_loss
from sar_repro.data import ImageSet, load_dataset, spread_ids, to_float, to_uint8
from sar_repro.engine import tokenizer_training
from sar_repro.engine.files import load_facts, load_tensors, read_json, save_json, save_tensors
from sar_repro.engine.fork_study import Fork, by_subject, optimizer, recipe, student_kl, trunk
from sar_repro.engine.kernels import pick
from sar_repro.engine.machine import run_record
from sar_repro.engine.metrics import frechet_distance, kid_pairs
from sar_repro.engine.models import load_model, load_tokenizer, make_model, make_tokenizer
from sar_repro.engine.models import model_meta
from sar_repro.engine.plots import progress
from sar_repro.engine.statistics import paired, t_interval
from sar_repro.engine.tokenizer_training import TokenizerTrainConfig, train_tokenizer
from sar_repro.evaluate import compare
from sar_repro.posterior import _looker, picture_likelihood, posterior_step, proposal
from sar_repro.posterior import proposal_weights, propose_maps, resample_loss
from sar_repro.scale_ar import by_scale, generate, sample, token_loss
from sar_repro.ssr import student_pass, teacher_pass
from sar_repro.strategies import free_codes, get_loss
from sar_repro.tokenizer import TokenData, psnr, reconstruct
from sar_repro.train import heldout_loss, lr_at

RUNS = Path(os.environ.get("SAR_EVIDENCE", ROOT / "runs/evidence"))
RECORDS = ROOT / "results/evidence"
PROTOCOL = dict(
    pictures=20_000, starts=6, epochs=18, fork=17, batch=64, precision="fp32",
    scales=(1, 2, 4, 8), width=64, depth=4, codes=2048,
    guidance=(0, 0.5, 1, 1.5, 2, 3), top_p=(1, 0.95),
    choose=dict(seed=1, n=2500), judge=dict(seeds=(11, 12, 13, 14), n=10_000),
    taus=(1.05, 1.1, 1.2), tau_of_one_map=1.2, likelihood=dict(pictures=2000, rounds=8),
    maps=((1, 8), (1, 3, 8), (1, 2, 4, 8), (1, 2, 3, 5, 8)), widths=(32, 64, 128, 192),
    small=dict(starts=4, epochs=6, fork=5),
)
PICTURES, SCALES = PROTOCOL["pictures"], PROTOCOL["scales"]
EPOCHS, FORK = PROTOCOL["epochs"], PROTOCOL["fork"]
TOKENIZER = TokenizerConfig(
    ch=8, ch_mult=(1, 2, 6), z_channels=48, latent_channels=16, vocab_size=2048,
    enc_blocks=1, dec_blocks=2, groups=8,
)
MODEL = ModelConfig(
    depth=4, embed_dim=64, num_heads=2, vocab_size=2048, latent_channels=16, num_classes=10,
    scales=SCALES, pos_side=8,
)
TOKENIZER_TRAINING = TokenizerTrainConfig(
    steps=3000, lr=1.5e-3, perceptual=0.2, precision="fp32", seed=0
)


def clothes(split):
    "All pictures of a split, 32x32."
    return load_dataset("fashion_mnist", 32, split)


def part(data, ids):
    "Some pictures of a set."
    rows = torch.as_tensor(ids)
    return ImageSet(data.name, data.split, 32, data.classes, data.labels[rows], data.batch(rows))


def two_parts():
    "The pictures of the models, and those of the judge: no picture is in both."
    data = clothes("train")
    ours = spread_ids(data.labels, PICTURES)
    return part(data, ours), part(data, np.setdiff1d(np.arange(len(data)), ours))


class Net(nn.Module):
    "A classifier of grey pictures (B, 3, 32, 32); `features` (B, 64) go into the distances."

    def __init__(self, widths, classes=10):
        super().__init__()
        self.layers, before = nn.ModuleList(), 1
        for i, c in enumerate(widths):
            conv = nn.Conv2d(before, c, 3, stride=2 if i in (1, 3, 4) else 1, padding=1)
            self.layers.append(nn.Sequential(conv, nn.BatchNorm2d(c), nn.ReLU()))
            before = c
        self.last = nn.Sequential(nn.Flatten(), nn.Linear(16 * before, 64), nn.ReLU())
        self.head = nn.Linear(64, classes)

    def maps(self, x, n=5):
        "Feature maps of the first n layers."
        found, x = [], x[:, :1]
        for layer in self.layers[:n]:
            found.append(x := layer(x))
        return found

    def features(self, x):
        return self.last(self.maps(x)[-1])

    def forward(self, x):
        return self.head(self.features(x))


JUDGE = dict(name="evidence-judge", seed=0, widths=(32, 32, 64, 64, 64), steps=1250)
EYE = dict(name="evidence-eye", seed=1, widths=(16, 24, 32, 48, 64), steps=620)


def learn(net, data, seed, steps):
    "Train a classifier: AdamW, batches of 128, mirrored every second step."
    opt = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-3)
    a_round = len(data) // 128
    for step in progress(range(steps), "classifier"):
        epoch, at = divmod(step, a_round)
        ids = order_rng(seed, epoch).permutation(len(data))[at * 128 : (at + 1) * 128]
        x = to_float(data.batch(ids))
        loss = F.cross_entropy(net(x.flip(-1) if step % 2 else x), data.labels[ids])
        loss.backward()
        opt.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        opt.step()
        opt.zero_grad(set_to_none=True)
    return net.eval().requires_grad_(False)


def classifier(about, data):
    "The classifier of that name, from disk where it is known."
    path = RUNS / f"{about['name']}.safetensors"
    torch.manual_seed(about["seed"])
    net = Net(about["widths"])
    if path.is_file():
        net.load_state_dict(load_tensors(path)[0])
        return net.eval().requires_grad_(False)
    learn(net, data, about["seed"], about["steps"])
    save_tensors(path, net.state_dict(), kind="Net", **about)
    return net


def judge():
    "Trained on 40,000 pictures that neither models nor references hold."
    return classifier(JUDGE, two_parts()[1])


def eye():
    "Trained on the models' 20,000, another seed and other widths: the tokenizer's third term."
    return classifier(EYE, two_parts()[0])


def looks_alike(net, images, target):
    "Mean difference of the eye's first maps, each relative to its size (see `perceptual`)."
    with torch.no_grad():
        want = net.maps(target, 4)
    pairs = zip(net.maps(images, 4), want)
    return sum((a - b).abs().mean() / b.abs().mean() for a, b in pairs)


def knows_alike(net, images, target):
    "Mean difference of the eye's last map and of its features, each relative to its size."
    a, b = net.maps(images)[-1], net.maps(target)[-1]
    parts = (a, b), (net.last(a), net.last(b))
    return sum((x - y).abs().mean() / y.abs().mean() for x, y in parts)


SHARP = dict(steps=2500, lr=1e-3, looks=0.4, knows=0.6, seed=0)  # of the decoder alone


def sharpen(first, path):
    "Train the decoder on, its codes unchanged, towards what the eye sees; lost by a kill."
    vae, net = load_tokenizer(MAIN, first), eye()
    imgs = load_dataset("fashion_mnist", 32, "train", limit=PICTURES)
    codes = TokenData(vae, imgs, SCALES, WORK / "cache").tokens[:, 0].long()
    parts = vae.decoder, vae.post_quant_conv
    weights = [p.requires_grad_(True) for m in parts for p in m.parameters()]
    opt = torch.optim.AdamW(weights, lr=SHARP["lr"], weight_decay=1e-4, betas=(0.9, 0.99))
    rng, steps = torch.Generator().manual_seed(SHARP["seed"]), SHARP["steps"]
    for step in progress(range(steps), "decoder"):
        rate = SHARP["lr"] * min(1, (step + 1) / 50) * (1 - step / steps) ** 0.5
        for group in opt.param_groups:
            group["lr"] = rate
        ids = torch.randint(len(imgs), (64,), generator=rng)
        x, y = to_float(imgs.batch(ids)), vae.picture(codes[ids], SCALES).float()
        loss = F.l1_loss(y, x) + 2 * F.mse_loss(y, x) + SHARP["looks"] * looks_alike(net, y, x)
        loss = loss + SHARP["knows"] * knows_alike(net, y, x)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        opt.step()
    half = {k: v.detach().half() for k, v in vae.state_dict().items()}
    facts = load_facts(first)
    save_tensors(path, half, **{k: facts[k] for k in ("config", "train", "kind")}, sharp=SHARP)


@lru_cache(None)
def tokenizer():
    "The study's tokenizer, trained where it is not there; `.key` is the hash of its weights."
    path, first = RUNS / "tokenizer.safetensors", RUNS / "tokenizer-first.safetensors"
    if not first.is_file():
        pictures = clothes("train").source
        ours = dict(effnet_lite0=eye, perceptual=looks_alike)  # in place of ImageNet's network
        with patch.multiple(tokenizer_training, **ours):
            train_tokenizer(TOKENIZER, TOKENIZER_TRAINING, pictures, first, "cpu", every=100)
    if not path.is_file():
        sharpen(first, path)
    return load_tokenizer(MAIN, path)


def tokenizer_facts():
    "The last row of its training's log, and its settings."
    last = (RUNS / "tokenizer-first.csv").read_text().splitlines()
    row = dict(zip(last[0].split(","), map(float, last[-1].split(","))))
    return dict(load_facts(RUNS / "tokenizer.safetensors"), last=row, eye=EYE)


# The models' sizes, known to the package by name

def register(name, **change):
    "Make a size of the study known under a name, and the hybrid of the same width."
    model = replace(MODEL, **change)
    size = Size(name, 32, TOKENIZER, model, 0.5, 0, 0.95, "the evidence study", "fashion_mnist")
    core.SIZES[name] = size
    core.VARIANTS[f"hybrid-{name}"] = core._hybrid(size)
    return name


def width(n):
    "Width with heads of 32."
    return dict(embed_dim=n, num_heads=n // 32)


MAIN = register("evidence")
SMALL = {register("maps" + "-".join(map(str, s)), scales=s): s for s in PROTOCOL["maps"]}
SMALL |= {register(f"width{n}", **width(n)): n for n in PROTOCOL["widths"] if n != 64}


@lru_cache(None)
def study(size=MAIN, base="flexvar"):
    "Pictures, tokens and folders of the models of a size."
    tokenizer()
    small = PROTOCOL["small"]
    schedule = (small["epochs"], small["fork"]) if size in SMALL else (EPOCHS, FORK)
    name = size if base == "flexvar" else f"{size}-{base}"
    how = dict(limit=PICTURES, schedule=schedule, base=base, records=RECORDS, folder=RUNS / name)
    return Fork("fashion_mnist", size, tokenizer=RUNS / "tokenizer.safetensors", **how)


# Arms: a loss, its settings, and for how many epochs

def every_fourth(model, batch, cfg):
    "Resampled coarse maps every fourth step, else teacher forcing."
    yield from (tf_loss if batch.step % 4 else resample_loss)(model, batch, cfg)


class FromFork:
    "A loss that asks a frozen copy of the model at the fork."

    def __init__(self, frozen=None):
        self.frozen = frozen

    def prepare(self, model, data=None):
        return type(self)(copy.deepcopy(model).eval().requires_grad_(False))


class EStep(FromFork):
    "Teacher forcing on coarse maps that the frozen model chose among proposals of its own."

    proposals = 8

    @torch.no_grad()
    def chosen(self, batch):
        "One of the proposed sets of coarse maps a picture, by how likely it is with the picture."
        look, true, n = _looker(self.frozen, batch), batch.tokens, self.proposals
        coarse = sum(p * p for p in batch.scales[:-1])
        noise = batch.noise("rollout", coarse * n + 1)
        log_r = proposal(look(true), true, batch.scales, batch.book)
        codes, chance = propose_maps(log_r, noise[:, 1:])
        share = proposal_weights(look, codes, chance, true).softmax(1).cumsum(1)
        one = torch.searchsorted(share, noise[:, :1] * share[:, -1:]).clamp_max(n - 1)
        maps = codes.gather(1, one[..., None].expand(-1, -1, coarse))[:, 0]
        return torch.cat([maps, true[:, coarse:]], 1)

    def __call__(self, model, batch, cfg):
        yield from tf_loss(model, replace(batch, tokens=self.chosen(batch)), cfg)


def student_loss(model, batch, cfg):
    "Teacher forcing, then a pass in a freely drawn context towards the teacher's distribution."
    f_t = teacher_pass(model, batch, cfg)
    ce = token_loss(f_t, batch.tokens, even=True)
    yield "tf", ce.mean(), by_scale(ce.detach(), batch.scales)
    f_t = f_t.detach()
    codes = free_codes(model, batch, cfg)
    f_s = student_pass(model, batch, codes, cfg)
    csf = csf_loss(f_s, f_t, codes, "soft")
    yield "csf", cfg.gamma * csf.mean(), by_scale(csf.detach(), batch.scales[1:])


CHAIN = 8  # steps of a chain


@torch.no_grad()
def chain_codes(model, batch):
    "Where chains of a few steps end that begin at the truth; the last map stays."
    look, codes, L = _looker(model, batch), batch.tokens, batch.tokens.shape[1]
    noise = batch.noise("sample", CHAIN * (L + 3)).split(L + 3, 1)
    draws = batch.noise("rollout", CHAIN * L).split(L, 1)
    f = look(codes)
    each = -token_loss(f, codes)
    for u, v in zip(noise, draws):
        new, f_new, new_each, yes, _ = posterior_step(look, codes, f, each, batch.scales, u, v)
        codes, each = (torch.where(yes[:, None], *x) for x in ((new, codes), (new_each, each)))
        f.hidden[yes] = f_new.hidden[yes]
    return codes


def chain_loss(model, batch, cfg):
    "Teacher forcing on coarse maps that the model itself finds likely for the same picture."
    model.eval()
    codes = chain_codes(model, batch)
    model.train()
    yield from tf_loss(model, replace(batch, tokens=codes), cfg)


LOSSES = {"resample 4th": every_fourth, "e-step": EStep(), "student": student_loss}
LOSSES |= {"chain": chain_loss}
SAR = dict(method="sar", gamma=0.01)
RELEASED = dict(rollout_guidance=1.2, rollout_top_k=207, rollout_top_p=0.96)  # 900 of 8,912 codes
ARMS = {  # fields of `TrainConfig`; `epochs` after the fork; `passes` in units of a forward one
    "tf": dict(passes=3),
    "sar": dict(passes=6, **SAR),
    "sar x10": dict(passes=6, **SAR | dict(gamma=0.1)),
    "resample 4th": dict(passes=3 + 9 / 4),
    "tf 2.1": dict(passes=3, epochs=2.1),
    "released": dict(passes=6, sf_scales="last", cond_shared=False, **SAR, **RELEASED),
    "chain": dict(passes=3 + 1 + CHAIN),
    "tf 4.4": dict(passes=3, epochs=4.4),
    "e-step": dict(passes=3 + 1 + EStep.proposals),
    "student": dict(passes=3 + 1 + 3, gamma=0.1),
    "ddo": dict(passes=3 + 1 + 3 + 1 + 1, method="ddo"),
    "rounds": dict(passes=3, base="hybrid"),
}
FIRST = ("tf", "sar", "sar x10")  # of all starts, before anything else
SETTINGS = ("method", "gamma", "sf_scales", "cond_shared", *RELEASED)


def folder_name(arm):
    return arm.replace(" ", "-").replace(".", "_")


def run_arm(model, opt, data, loss_fn, cfg, schedule, length):
    "Some epochs after the fork; the rate falls over the last epochs' range, whatever their number."
    (epochs, fork), n = schedule, math.ceil(len(data) / cfg.batch_size)
    model.train().requires_grad_(True)
    for i in progress(range(round(length * n)), cfg.method):
        epoch, at = fork + i // n, i % n
        ids = data.order(cfg.seed, epoch)[at * cfg.batch_size : (at + 1) * cfg.batch_size]
        batch = data.batch(ids, cfg.seed, epoch, step=fork * n + i)
        for _, loss, _ in loss_fn(model, batch, cfg):
            loss.backward()
        done = fork * n + i / length * (epochs - fork)
        for group in opt.param_groups:
            group["lr"] = lr_at(done, n * epochs, cfg)
        nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)
        opt.step()
        opt.zero_grad(set_to_none=True)
    return model.eval().requires_grad_(False)


def with_few_held(fork, n=1000):
    "The same study with fewer held-out pictures, which a trunk looks at after every epoch."
    few, ids = copy.copy(fork), torch.as_tensor(spread_ids(fork.held.labels, n))
    few.held = copy.copy(fork.held)
    few.held.tokens, few.held.labels = fork.held.tokens[ids], fork.held.labels[ids]
    return few


def weights_of(start, arm, size=MAIN):
    "Where the weights of an arm lie."
    return RUNS / size / f"start{start}" / folder_name(arm) / "model.safetensors"


def trained(start, arm, size=MAIN):
    "The model of an arm, from disk where it is known."
    about, path = ARMS[arm], weights_of(start, arm, size)
    base = about.get("base", "flexvar")
    name = size if base == "flexvar" else f"{base}-{size}"
    if path.is_file():
        return load_model(name, path)
    fork = study(size, base)
    state = trunk(with_few_held(fork), start)
    own = {k: v for k, v in about.items() if k in SETTINGS}
    cfg = recipe(start, epochs=fork.schedule[0], **own)
    model = make_model(replace(fork.size.model, num_classes=10))
    model.load_state_dict(state["model"])
    opt, loss_fn = optimizer(model, cfg), LOSSES.get(arm) or get_loss(cfg.method)
    opt.load_state_dict(state["opt"])
    loss_fn = loss_fn.prepare(model, fork.data) if hasattr(loss_fn, "prepare") else loss_fn
    begun = time.process_time()
    length = about.get("epochs", fork.schedule[0] - fork.schedule[1])
    run_arm(model, opt, fork.data, loss_fn, cfg, fork.schedule, length)
    facts = dict(seconds=time.process_time() - begun, start=start, arm=arm, commit=commit())
    half = {k: v.half() for k, v in model.state_dict().items()}
    save_tensors(path, half, **model_meta(model.cfg, tokenizer=fork.vae.key, **facts))
    return load_model(name, path)


# Distances

class Judging:
    "Held-out pictures and their reconstructions in the judge's features, both sides of each."

    def __init__(self):
        self.net, self.vae, self.test = judge(), tokenizer(), clothes("test")
        path = RUNS / f"features-{self.vae.key}.pt"
        if not path.is_file():
            torch.save(self.measured(), path)
        known = torch.load(path, weights_only=True)
        self.unit, self.real, self.recon = (known[k] for k in ("unit", "real", "recon"))
        self.pairs = {k: kid_pairs(known[k], 2) for k in ("real", "recon")}

    def measured(self):
        "Features of 20,000 rows: picture, mirror image, in turn."
        both, parts = lambda x: torch.stack([x, x.flip(-1)], 1).flatten(0, 1), {}
        seen = [both(self.test.batch(i)) for i in torch.arange(len(self.test)).split(500)]
        shown = [to_uint8(reconstruct(self.vae, x)[0]) for x in progress(seen, "reconstructions")]
        for name, pictures in (("real", seen), ("recon", shown)):
            parts[name] = torch.cat([self.raw(x)[0] for x in pictures])
        unit = parts["real"].square().mean().sqrt()
        return {k: v / unit for k, v in parts.items()} | dict(unit=unit)

    @torch.no_grad()
    def raw(self, pictures):
        "Features and class logits of uint8 pictures."
        f = [self.net.features(to_float(x)) for x in pictures.split(250)]
        return torch.cat(f), self.net.head(torch.cat(f))

    def near(self, f):
        "Frechet distances alone."
        return dict(fd=frechet_distance(f, self.real), fd_recon=frechet_distance(f, self.recon))

    def all(self, f):
        "Distances to both references, precision and recall to both."
        found = {}
        for name, ending in (("real", ""), ("recon", "_recon")):
            how = dict(sides=2, pairs=self.pairs[name], most=4000)
            row = compare(f, getattr(self, name), **how)
            found |= {k + ending: v for k, v in row.items() if k != "n"}
        return found

    def of(self, model, how, seed, n, full):
        "Draw and measure; classes in turn."
        labels = torch.arange(n) % 10
        more = {k: v for k, v in how.items() if k != "tau"}
        with cooled(model, how.get("tau")):
            x = sample(model, self.vae, labels, seed=seed, batch_size=100, precision="fp32", **more)
        f, logits = self.raw(x)
        right = (logits.argmax(1) == labels).float().mean().item()
        return (self.all if full else self.near)(f / self.unit) | dict(right=right)


    def true_maps(self, model, held, n):
        "Unguided samples whose first 0, 1, ... maps are those of held-out pictures (EB-C and the gate)."
        ids, rows = torch.as_tensor(spread_ids(held.labels, n)), []
        codes, ends = held.batch(ids).tokens, np.cumsum([0, *(p * p for p in held.scales[:-1])])
        for end in ends:
            how = dict(seed=1, batch_size=100, precision="fp32", prefix=codes[:, :end])
            f, logits = self.raw(sample(model, self.vae, held.labels[ids], **how))
            right = (logits.argmax(1) == held.labels[ids]).float().mean().item()
            rows.append(self.near(f / self.unit) | dict(right=right))
        return rows


@lru_cache(None)
def judging():
    return Judging()


class cooled:
    "While it lasts, logits are divided by tau: one number, or one a map."

    def __init__(self, model, tau=None):
        self.model, self.tau = model, tau

    def __enter__(self):
        if self.tau is None:
            return
        n, made = len(self.model.cfg.scales), type(self.model).steps
        taus = self.tau if isinstance(self.tau, (list, tuple)) else [self.tau] * n
        self.model.steps = lambda *a, **k: _divided(made(self.model, *a, **k), taus)

    def __exit__(self, *error):
        self.model.__dict__.pop("steps", None)


def _divided(net, taus):
    plain = net.logits
    net.logits = lambda h, k, *a, **how: plain(h, k, *a, **how) / taus[k]
    return net


def rows_at(path):
    "Measurements that are on disk, by key."
    lines = path.read_text().splitlines() if path.is_file() else []
    return {row["key"]: row for row in map(json.loads, filter(str.strip, lines))}


def measured(start, arm, how, seed, n, full=False, size=MAIN):
    "One sampling, measured; from disk where it is known, for a piece may be stopped in between."
    path = weights_of(start, arm, size).parent / "samples.jsonl"
    key = json.dumps([how, seed, n, full], sort_keys=True)
    if row := rows_at(path).get(key):
        return {k: v for k, v in row.items() if k != "key"}
    begun = time.process_time()
    row = judging().of(trained(start, arm, size), how, seed, n, full)
    row = dict(how, **row, seed=seed, n=n, cpu=round(time.process_time() - begun, 1))
    with open(path, "a") as out:
        out.write(json.dumps(dict(row, key=key)) + "\n")
    return row


def settings(arm, guidance, top_p):
    "How to sample; the hybrid draws its first map in four rounds."
    how = dict(guidance=guidance, top_p=0 if top_p == 1 else top_p)
    return how | dict(rounds=4) if ARMS[arm].get("base") == "hybrid" else how


def grid(start, arm, size=MAIN):
    "Distances at every point of the grid, by one seed and few samples."
    points = [(g, p) for p in PROTOCOL["top_p"] for g in PROTOCOL["guidance"]]
    few = PROTOCOL["choose"]
    return [measured(start, arm, settings(arm, *at), few["seed"], few["n"], size=size)
            for at in points]


def at_best(start, arm, rows, size=MAIN):
    "The chosen point, judged on other seeds."
    best = min(rows, key=lambda row: row["fd"])
    how = {k: best[k] for k in ("guidance", "top_p", "rounds") if k in best}
    many = PROTOCOL["judge"]
    found = [measured(start, arm, how, s, many["n"], True, size) for s in many["seeds"]]
    kept = [k for k in found[0] if k not in how and k not in ("seed", "n", "cpu")]
    mean = {k: float(np.mean([row[k] for row in found])) for k in kept}
    return dict(how, **mean, draws=found)


# What a model is like

def entropy(f):
    "Nats of every token's prediction."
    parts = [z.log_softmax(-1) for _, z in f.blocks()]
    return torch.cat([-(p.exp() * p).sum(-1) for p in parts])


@torch.no_grad()
def entropies(model, held, n=2000):
    "Entropy of each map, nats a token, after true, one-step and free context."
    found = {"true": [], "one-step": [], "free": []}
    for ids in torch.as_tensor(spread_ids(held.labels, n)).split(250):
        batch = held.batch(ids)
        look = _looker(model, batch)
        f = look(batch.tokens)
        own = torch.cat([pick(z, batch.noise("rollout", z.shape[1])[i]) for i, z in f.blocks()])
        free = generate(model, batch.book, batch.labels, seed=5, index=ids.tolist())
        for name, g in (("true", f), ("one-step", look(own)), ("free", look(free))):
            found[name].append(entropy(g))
    return {k: by_scale(torch.cat(v), held.scales).tolist() for k, v in found.items()}


def inside(model, fork):
    "Held-out nats of each map, and for models that read all coarser maps gap and entropies."
    nats = heldout_loss(model, fork.held, precision="fp32").tolist()
    tokens = [p * p for p in fork.held.scales]
    found = dict(heldout=[x * n for x, n in zip(nats, tokens)])
    if model.cfg.base == "flexvar":
        found |= dict(gap=student_kl(model, fork.held).tolist())
        found |= dict(entropy=entropies(model, fork.held))
        n = PROTOCOL["choose"]["n"]
        found |= dict(true_maps=judging().true_maps(model, fork.held, n))
    return found


# Records

@lru_cache(None)
def commit():
    "Commit of this study's code as it was first asked for, '+' where files differ from it."
    git = lambda *a: subprocess.run(
        ["git", "-C", str(ROOT), *a], capture_output=True, text=True
    ).stdout.strip()
    changed = git("status", "--porcelain", "--", "tools/evidence.py", "sar_repro")
    return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")


def record(name, **facts):
    "Write a record that names commit, precision, machine class and tokenizer."
    about = run_record(**facts, precision="fp32", dataset="fashion_mnist 32x32",
                       tokenizer=tokenizer().key, judge=JUDGE)
    save_json(RECORDS / f"{name}.json", about | dict(commit=commit()))


def regime():
    "What the tokenizer leaves of held-out pictures, and what a perfect model would score."
    j, vae = judging(), tokenizer()
    x = j.test.batch(range(len(j.test)))
    shown, codes = reconstruct(vae, x)
    used = torch.bincount(codes.flatten(), minlength=TOKENIZER.vocab_size)
    share = used[used > 0].double() / used.sum()
    ours = j.raw(study().images.batch(range(10_000)))[0] / j.unit
    right = {k: (j.net.head(getattr(j, k) * j.unit)[::2].argmax(1) == j.test.labels).float().mean()
             for k in ("real", "recon")}
    record(
        "regime",
        psnr=psnr(shown, to_float(x)).mean().item(),
        codes_used=int((used > 0).sum()), perplexity=float((-(share * share.log()).sum()).exp()),
        tokenizer_fd=frechet_distance(j.recon, j.real),
        reconstructions=j.all(j.recon[::2]), floor=j.all(ours),
        right={k: v.item() for k, v in right.items()},
        training=tokenizer_facts(), protocol=PROTOCOL,
    )


def arm(start, name, size=MAIN):
    "Train, sample and judge an arm of a start."
    model = trained(start, name, size)
    rows, about = grid(start, name, size), ARMS[name]
    facts = load_facts(weights_of(start, name, size))
    fork = study(size, about.get("base", "flexvar"))
    record(
        piece_name(size, start, name), size=size, start=start, arm=name, settings=about,
        trained_by=facts["commit"], seconds=facts["seconds"], schedule=fork.schedule,
        weights=sum(p.numel() for p in model.parameters()), **inside(model, fork),
        grid=rows, best=at_best(start, name, rows, size),
    )


def temperatures(start):
    "The control at temperatures, at every guidance."
    maps = len(SCALES)
    one = lambda k: [PROTOCOL["tau_of_one_map"] if i == k else 1.0 for i in range(maps)]
    few, rows = PROTOCOL["choose"], []
    for tau in (*PROTOCOL["taus"], *map(one, range(maps))):
        for g in PROTOCOL["guidance"]:
            how = dict(guidance=g, top_p=0, tau=tau)
            rows.append(measured(start, "tf", how, few["seed"], few["n"]))
    record(f"temperature-start{start}", start=start, arm="tf", rows=rows)


def likelihood(start, arms, name, pictures):
    "Nats of held-out pictures by importance sampling, all arms by the same proposals."
    fork, rows = study(), {}
    ids = torch.as_tensor(spread_ids(fork.held.labels, pictures))
    models = {a: trained(start, a) for a in arms}
    how = dict(rounds=PROTOCOL["likelihood"]["rounds"], guides=arms, batch_size=100)
    bounds, found = picture_likelihood(models, fork.held, ids, **how)
    for a in arms:
        gain, se = by_subject(found[a] - found["tf"], torch.arange(len(ids)))
        drop, drop_se = by_subject((bounds[a] - bounds["tf"])[:, None], torch.arange(len(ids)))
        rows[a] = dict(bound=bounds[a].mean().item(), nats=found[a].mean(0).tolist())
        rows[a] |= dict(gain=gain.tolist(), se=se.tolist(), bound_gain=drop.item())
        rows[a] |= dict(bound_se=drop_se.item())
    record(f"likely-{name}-start{start}", start=start, pictures=len(ids), arms=rows,
           proposals=[32 * (r + 1) for r in range(how["rounds"])])


# The queue

def piece_name(size, start, name):
    return f"{size}-start{start}-{folder_name(name)}".removeprefix("evidence-")


def pieces():
    "Name -> what makes its record, in the order in which they run."
    all_of = range(PROTOCOL["starts"])
    todo = {"regime": regime}
    one = lambda start, name, size=MAIN: lambda: arm(start, name, size)
    for s in all_of:
        todo |= {piece_name(MAIN, s, a): one(s, a) for a in FIRST}
    todo |= {f"temperature-start{s}": lambda s=s: temperatures(s) for s in all_of}
    rest = [a for a in ARMS if a not in FIRST]
    for some in (all_of[:3], all_of[3:]):
        todo |= {piece_name(MAIN, s, a): one(s, a) for a in rest for s in some}
    n = PROTOCOL["likelihood"]["pictures"]
    for s in all_of:
        todo[f"likely-first-start{s}"] = lambda s=s: likelihood(s, FIRST, "first", n)
    small = PROTOCOL["small"]["starts"]
    for s in range(small):
        todo |= {piece_name(z, s, a): one(s, a, z) for z in SMALL for a in ("tf", "sar")}
    return todo


def taken(name):
    "Hold the start of a piece (trunk and arms lie in one folder), or None: another process does."
    start = name.partition("start")[2].partition("-")[0]
    folder = RUNS / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / f"{start or name}", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    return lock


def queue(*starts):
    "One piece after the other; one that fails is told and left for the next call. All starts, or some."
    todo = pieces()
    if starts:
        todo = {k: v for s in starts for k, v in todo.items() if f"start{s}" in k}
    for name, make in todo.items():
        lock = None  # of the piece before
        lock = taken(name)
        if lock is None or (RECORDS / f"{name}.json").is_file():
            continue
        begun = time.time(), time.process_time()
        try:
            torch._dynamo.reset()
            make()
            said = "done"
        except Exception:
            traceback.print_exc()
            said = "FAILED"
        took = time.time() - begun[0], time.process_time() - begun[1]
        now = time.strftime("%H:%M:%S")
        print(f"{now} {name} {said}: {took[0]:.0f} s, {took[1]:.0f} of CPU", flush=True)
        share()


def plan():
    "Which pieces are there."
    for name in pieces():
        print("done" if (RECORDS / f"{name}.json").is_file() else "    ", name)


# What is known

def known(size=MAIN):
    "One row a start and arm: distances at the best point, and unguided and usual of the grid."
    import pandas as pd

    rows = []
    for path in sorted(RECORDS.glob("*.json")):
        r = read_json(path)
        if not r or "best" not in r or r["size"] != size:
            continue
        at = {(x["guidance"], x["top_p"]): x for x in r["grid"]}
        row = dict(method=r["arm"], seed=r["start"], loss=sum(r["heldout"]))
        row |= {k: v for k, v in r["best"].items() if not isinstance(v, (list, dict))}
        row |= dict(fd_plain=at[0, 0]["fd"], fd_usual=at[0.5, 0.95]["fd"])
        row |= dict(fd_recon_best=min(x["fd_recon"] for x in r["grid"]))
        rows.append(row)
    return pd.DataFrame(rows)


def least_effect(sd, n, power=0.8):
    "The mean difference that n pairs of this spread show with so much power, at 5 %, two-sided."
    bar = student_t.ppf(0.975, n - 1)
    found = lambda c: nct.sf(bar, n - 1, c) - power
    return brentq(found, 0.1, 50) * sd / math.sqrt(n)


def differences(frame, method, control="tf", measure="fd"):
    "Log ratios, one a start."
    wide = np.log(frame.pivot_table(index="seed", columns="method", values=measure))
    return (wide[method] - wide[control]).dropna()


def share():
    "What the tokenizer makes of the control's distance to real pictures; the bar is a third."
    path, frame = RECORDS / "regime.json", known()
    if path.is_file() and len(frame) and "tf" in set(frame.method):
        own = read_json(path)["tokenizer_fd"]
        far = frame[frame.method == "tf"].fd
        print(f"tokenizer {own:.4f} of {far.mean():.4f}: {own / far.mean():.2f}, bar .33")


def primary():
    "The declared comparison, in words."
    d = differences(known(), "sar")
    mean, low, high = t_interval(d)
    word = "helps" if high < 0 else "harms" if low > 0 else "not told apart"
    least = least_effect(d.std(), len(d))
    said = f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] log %, least {100 * least:.1f}"
    print(f"SAR over teacher forcing, each at its best, {len(d)} starts: {word}, {said}")


def has_both(frame):
    "Are control and SAR there?"
    return len(frame) and {"tf", "sar"} <= set(frame.method)


def slopes():
    "Slope of the log ratio over log2(maps) and log2(weights), start by start, with intervals."
    for kind in (tuple, int):
        sizes = [z for z, x in SMALL.items() if isinstance(x, kind)]
        if kind is int:
            sizes.append("maps1-2-4-8")  # width 64
        d = {z: differences(frame, "sar") for z in sizes if has_both(frame := known(z))}
        if len(d) < 2:
            continue
        x = np.log2([len(SMALL[z]) if kind is tuple else weights(z) for z in d])
        starts = range(PROTOCOL["small"]["starts"])
        each = [np.polyfit(x, [d[z][s] for z in d], 1)[0] for s in starts]
        print("maps" if kind is tuple else "weights", t_interval(each))


def weights(size):
    "Number of weights of a size."
    return sum(p.numel() for p in make_model(core.SIZES[size].model).parameters())


def table():
    "Changes against the control of the same start, log per cent of distances."
    frame = known()
    print(frame.round(3).to_string())
    share()
    for control in ("tf", "tf 2.1", "tf 4.4"):
        for measure in ("fd", "fd_recon", "fd_plain", "fd_usual", "fd_recon_best"):
            if control in set(frame.method):
                found = paired(frame, measure, control, log=True)
                print(measure, "against", control, "(100 log)")
                print((100 * found[["change", "low", "high"]]).round(1).to_string())
    primary()
    slopes()


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    asked, rest = sys.argv[1], sys.argv[2:]
    commit()  # of the code that runs, whatever is committed while it does
    if asked == "piece":
        pieces()[rest[0]]()
    else:
        dict(queue=queue, plan=plan, table=table)[asked](*rest)
