"A whole training step as a GPU would record it: the operations of one step, done again on other tensors, train like steps that are taken."
import sys
from unittest import mock

import pytest
import torch
from conftest import ROOT

sys.path[:0] = [str(ROOT/'tools'), str(ROOT/'tests')]
import gpu
from sar_repro.engine import kernels
from sar_repro.engine.core import SarError, TrainConfig
from sar_repro.jobs.runs import ToyTokens, _check_shards, toy_model
from sar_repro.jobs.speed import Stand
from sar_repro.csfl import tf_loss
from sar_repro.train import train
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

def test_bf16_between_blocks_is_of_training_alone_and_wants_precision_bf16():
    model, seen = toy_model().train(), []
    for block in model.blocks: block.register_forward_hook(lambda b, args, out: seen.append(args[0].dtype))
    labels = torch.zeros(2, dtype=torch.int64)
    for model.stream, mode in ((None, True), (torch.bfloat16, True), (torch.bfloat16, False)):
        seen.clear()
        with torch.autocast('cpu', torch.bfloat16), torch.no_grad(): model.train(mode)(labels, None, (1,))
        assert set(seen) == {torch.bfloat16 if model.stream and mode else torch.float32}, (model.stream, mode)
    cfg = TrainConfig(stream='bf16', precision='fp32')
    with pytest.raises(SarError, match='pass precision bf16, or leave stream out'): _check_shards(cfg, None)
    with pytest.raises(SarError, match='stream bf16'): train(toy_model(), ToyTokens(), tf_loss, TrainConfig(method='tf', stream='bf16', precision='bf16'))
