"A whole training step as a GPU would record it: the operations of one step, done again on other tensors, train like steps that are taken."
import sys
from unittest import mock

import torch
from conftest import ROOT

sys.path[:0] = [str(ROOT/'tools'), str(ROOT/'tests')]
import gpu
from sar_repro.engine import kernels
from sar_repro.jobs.speed import Stand
from test_budget import Recording

def recorded(fn, *inputs): # in place of `Replay`: recorded at its first call, replayed at each later one
    if not hasattr(recorded, 'places'):
        recorded.places = [t.clone() for t in inputs]
        with Recording() as recorded.tape: return fn(*recorded.places)
    for place, t in zip(recorded.places, inputs): place.copy_(t)
    with torch.no_grad(): recorded.tape.replay()

def test_a_recorded_step_trains_like_steps_that_are_taken():
    for kind in ('tf', 'sar'):
        vars(recorded).clear()
        plain, whole = Stand('mini', 3, 'cpu', 'fp32'), gpu.Whole('mini', 3, 'cpu', 'fp32')
        with mock.patch.object(kernels, '_all_alike', lambda g, even: even): # as a GPU trusts it
            for _ in range(5): plain.step(kind)
            whole.begin(kind)
            whole.replay = recorded
            for _ in range(4): whole.step(kind)
        pairs = list(zip(plain.model.parameters(), whole.model.parameters()))
        assert all(a.equal(b) for a, b in pairs), (kind, max((a - b).abs().max().item() for a, b in pairs))
