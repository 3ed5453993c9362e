"torch.compile rounds differently, and does no more."
import pandas as pd
import pytest
from dataclasses import replace
from sar_repro.core import TrainConfig
from sar_repro.engine.machine import can_compile
from sar_repro.engine.runs import ToyTokens, toy_model, train_run
from sar_repro.strategies import get_loss

def test_a_compiled_run_has_the_log_of_a_plain_one(tmp_path):
    if not can_compile(): pytest.skip('torch.compile does not work here')
    cfg, toy = TrainConfig(epochs=3, batch_size=8, lr=1e-3, precision='fp32'), ToyTokens()
    plain, fused = (train_run(toy_model(), toy, get_loss('sar'), c, tmp_path/str(c.compile), held=toy) for c in (cfg, replace(cfg, compile=True)))
    pd.testing.assert_frame_equal(plain, fused, atol=1e-3, rtol=1e-3)
