"What a GPU would be given, counted without one: a change that makes its work worse fails here. And the counting itself, on small programs."
import sys
import warnings
from functools import partial
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from sar_repro import scale_ar
from sar_repro.engine.core import get_size, index_uniform
from sar_repro.engine.kernels import _from_best
from sar_repro.engine.machine import upload
from sar_repro.jobs.published import KEPT
from sar_repro.jobs.speed import PASSES, flops
from sar_repro.models import start_models
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(ROOT/'tools'))
import traced
from traced import Ledger, fuse, measured_rates, pretended_gpu, seconds, traced_sampling, traced_step

STEPS = { # kernels with blocks fused, GB moved between products then, bytes kept a picture, use of an H200's products in the least time; each with little room
    ('d16', 'sar', 16): (2_500, 105, 690e6, 0.47),
    ('d24', 'sar, guided', 24): (3_890, 356, 1_540e6, 0.58)}

@pytest.mark.parametrize('size,kind,pictures', STEPS, ids=lambda v: str(v).replace(', ', '-'))
def test_a_step_asks_nothing_and_stays_within_its_budget(size, kind, pictures):
    kernels, moved, kept, use = STEPS[size, kind, pictures]
    ledger = traced_step(size, kind, pictures)
    fused = fuse(ledger.entries)
    assert not [e.name for e in fused if e.kind == 'question']
    between = sum(sum(e.reads.values()) + sum(e.writes.values()) for e in fused if e.kind == 'other')/1e9
    least, work = seconds(fused, 'H200'), PASSES[kind]*flops(get_size(size).model, pictures)
    found = len(fused), between, ledger.saved/pictures, work/least/measured_rates()[0]/1e12
    assert found[0] <= kernels and found[1] <= moved and found[2] <= kept and found[3] >= use, found

def test_a_large_step_is_planned_at_more_than_half_of_the_products_rate():
    "d16, 64 pictures, blocks fused, by measured rates; 60 % also want attention in 1.65 ms a layer, 2.28 as measured under the mask."
    use = PASSES['tf']*flops(get_size('d16').model, 64)/measured_rates()[0]/1e12
    steps = {s: fuse(traced_step('d16', 'tf', 64, stream=s).entries) for s in (None, torch.bfloat16)}
    whole, half = (use/seconds(e) for e in steps.values())
    assert whole >= 0.54 and half >= 0.555, (whole, half)
    layer = seconds([e for e in steps[torch.bfloat16] if e.kind == 'attention'])/16
    assert use/(seconds(steps[torch.bfloat16]) - 16*(layer - 1.65e-3)) >= 0.6

def test_the_count_is_that_by_hand_and_a_picture_keeps_what_is_planned():
    ledger, cfg = traced_step('d16', 'sar', 16), get_size('d16').model
    assert ledger.total_flops() == pytest.approx(PASSES['sar']*flops(cfg, 16), rel=0.15) # masked attention is computed whole
    assert traced.kept_bytes('d16') < KEPT*cfg.seq_len*cfg.depth*cfg.embed_dim

def test_sampling_asks_for_the_pictures_alone():
    ledger = traced_sampling('d16', 20)
    asked = [e.name for e in ledger.entries if e.kind == 'question']
    found = len(ledger.entries), 1e3*seconds(ledger.entries, 'H200')/20
    assert len(asked) <= 1 and found[0] <= 7_500 and found[1] <= 2.7, (asked, found)

def test_the_backward_pass_that_is_walked_is_that_of_the_engine():
    x, w = torch.randn(3, 4, requires_grad=True), torch.randn(4, 4, requires_grad=True)
    y = F.gelu(x @ w)
    loss = (y @ w + y).sin().mean()
    exact = torch.autograd.grad(loss, (x, w), retain_graph=True)
    traced._walk(loss)
    torch.testing.assert_close([x.grad, w.grad], list(exact), rtol=0, atol=1e-6)

def test_only_what_is_waited_for_is_a_question():
    bare = torch.nn.Module()
    bare.blocks = ()
    with pretended_gpu():
        a = torch.randn(8, 8, device='cuda', requires_grad=True)
        with torch.autocast('cuda', torch.bfloat16): b = a @ a
        b.float().sum().backward()
        assert b.dtype == torch.bfloat16 and a.grad.device.type == 'cuda'
        with pytest.raises(Exception): b.sum().item() # there is no number
        with Ledger(bare) as ledger:
            here = torch.ones(3)
            here.to('cuda'), upload(here, 'cuda')
    assert [e.kind for e in ledger.entries if e.name == '_to_copy'] == ['question', 'other']

def test_a_group_of_pictures_can_be_recorded():
    "A CUDA graph may repeat a group if nothing is asked, all groups do the same, and what is read was written within it or lies where it always lies."
    (_, once, twice), fixed = traced.traced_group('small', 2, 3)
    def foreign(ledger): # read, but neither written before nor fixed
        written, found = set(fixed), []
        for e in ledger.entries:
            filled = e.writes if e.name == 'copy_' else () # which it overwrites, and does not read
            found += [(e.name, s) for s in e.reads if s not in written and s not in filled]
            written |= e.writes.keys()
        return found
    assert not [e.name for e in once.entries if e.kind == 'question']
    same = [[(e.name, e.flops, *e.reads.values()) for e in g.entries] for g in (once, twice)]
    assert same[0] == same[1], 'the groups differ'
    assert foreign(once) == foreign(twice) and len(set(foreign(once))) == 1 # the codebook, normalised by the first group

class Recording(TorchDispatchMode):
    "Stands in for a CUDA graph: notes operations, to do them again on the same tensors."
    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out, name = func(*args, **(kwargs or {})), func._overloadpacket.__name__
        assert not any(name.startswith(a) for a in traced.ASKS), name
        if not traced._free(func, name): self.done.append((func, args, kwargs or {}, out))
        return out

    def replay(self):
        for func, args, kwargs, out in self.done:
            for old, new in zip(traced._tensors(out), traced._tensors(func(*args, **kwargs))):
                if old is not new: old.copy_(new)

def test_a_recording_draws_the_right_pictures():
    def from_best(f, noise, top_k, top_p): # a CPU draws in another way than a GPU: here it takes the GPU's
        logits = f.logits()
        return _from_best(logits.flatten(0, -2), noise.flatten(), top_k or logits.shape[-1], top_p).view(noise.shape)
    model, vae = start_models('mini')
    group = partial(scale_ar.draw_group, model, vae, 'fp32', model.cfg.scales, guidance=1.5, top_k=300, top_p=0.9)
    rng = torch.Generator().manual_seed(0)
    groups = [(torch.randint(10, (3,), generator=rng), torch.rand(3, 21, generator=rng)) for _ in 'ab']
    with mock.patch.object(scale_ar, 'pick', from_best), torch.no_grad():
        right, places = [group(*g) for g in groups], [t.clone() for t in groups[0]]
        with Recording() as recording: out = group(*places)
        assert out.equal(right[0])
        for place, t in zip(places, groups[1]): place.copy_(t)
        recording.replay()
    assert out.equal(right[1]) and (right[0] != right[1]).any()

def test_noise_that_is_given_is_that_of_the_seed_and_no_gpu_is_needed_for_speed():
    model, vae = start_models('mini')
    noise, labels = index_uniform(3, range(2), 21), torch.zeros(2, dtype=torch.long)
    drawn = [scale_ar.generate(model, vae.quantize, labels, seed=s) for s in (noise, 3)]
    assert drawn[0].equal(drawn[1])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        same = [scale_ar.sample(model, vae, labels, seed=3, fast=f) for f in (True, 'auto', False)]
    assert [str(w.message) for w in told] == ['sampling goes on as ever: there is no GPU']
    assert same[0].equal(same[1]) and same[0].equal(same[2])
