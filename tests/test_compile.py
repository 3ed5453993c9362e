"torch.compile rounds differently, and does no more; drawn schedules do not make it compile again and again."
import numpy as np
import pandas as pd
import pytest
import torch
from dataclasses import replace
from sar_repro.engine.core import ModelConfig, TrainConfig
from sar_repro.engine.machine import can_compile
from sar_repro.jobs.runs import ToyTokens, toy_model, train_run
from sar_repro.scale_ar import FlexVAR, causal_mask, draw_schedule
from sar_repro.strategies import get_loss
from sar_repro.tokenizer import Batch, Codebook

def test_a_compiled_run_has_the_log_of_a_plain_one(tmp_path):
    if not can_compile(): pytest.skip('torch.compile does not work here')
    cfg, toy = TrainConfig(epochs=3, batch_size=8, lr=1e-3, precision='fp32'), ToyTokens()
    plain, fused = (train_run(toy_model(), toy, get_loss('sar'), c, tmp_path/str(c.compile), held=toy) for c in (cfg, replace(cfg, compile=True)))
    pd.testing.assert_frame_equal(plain, fused, atol=1e-3, rtol=1e-3)

def test_two_hundred_drawn_schedules_are_compiled_at_most_eight_times():
    graphs, lengths, rng = [], set(), np.random.default_rng(0)
    def counted(graph, inputs): # stands in for the compiler: what is traced, and how often, does not depend on it
        graphs.append(len(graph.graph.nodes))
        return graph.forward
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = FlexVAR(ModelConfig(depth=2, embed_dim=64, num_heads=1, vocab_size=16, latent_channels=4, num_classes=3, pos_side=16)).train()
    model.compile_blocks(True, dynamic=True, backend=counted)
    book, loss_fn, cfg = Codebook(16, 4).requires_grad_(False), get_loss('sar'), TrainConfig(rollout_guidance=1.2, precision='fp32')
    for step in range(200):
        scales, B = draw_schedule(rng), 2 + (step % 50 == 49) # the last micro-batch of an epoch is another
        L = sum(p*p for p in scales)
        lengths.add(L)
        batch = Batch(torch.randint(16, (B, L)), torch.zeros(B, dtype=torch.long), torch.arange(B), scales, book, 3, step=step)
        if step % 10 == 9: # a whole step now and then, its blocks always
            for _, loss, _ in loss_fn(model, batch, cfg): loss.backward()
        else: model.trunk(torch.randn(B, L, 64), torch.randn(B, 64, requires_grad=True), causal_mask(scales), drop_path=batch.drop_path(model.cfg))
    torch._dynamo.reset()
    assert len(lengths) > 80 and 1 <= len(graphs) <= 8, (len(lengths), graphs)
