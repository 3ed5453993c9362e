"Two processes train as one does: the same global batch and seed give the same losses and weights."
import os, subprocess, sys, textwrap

import pandas as pd
import torch
from conftest import ROOT
from sar_repro.core import load_tensors

SCRIPT = textwrap.dedent('''
    import sys, torch
    from sar_repro.core import ModelConfig, TrainConfig
    from sar_repro.scale_ar import FlexVAR
    from sar_repro.tokenizer import Codebook
    from sar_repro.train import TokenData, train

    class Toy(TokenData):
        def __init__(self, n=33, scales=(1, 2, 3), vocab=32): # 33: the last step has one sample, so one process gets none
            g = torch.Generator().manual_seed(0)
            self.tokens = torch.randint(vocab, (n, 2, 14), generator=g).short()
            self.labels, self.scales, self.num_classes, self.name, self.stamp = torch.arange(n) % 3, scales, 3, 'toy', 'toy'
            torch.manual_seed(0); self.book = Codebook(vocab, 8).requires_grad_(False)

    torch.set_num_threads(1); torch.manual_seed(1)
    model = FlexVAR(ModelConfig(depth=2, embed_dim=64, num_heads=1, vocab_size=32, latent_channels=8, num_classes=3, scales=(1, 2, 3), pos_side=4, drop_path=0.1))
    cfg = TrainConfig(epochs=2, batch_size=8, lr=1e-3, precision='fp32', rollout_cfg=1.2, gamma=0.5, sf_scales=sys.argv[2], micro_batch=int(sys.argv[3]))
    train(model, Toy(), cfg, sys.argv[1], held=Toy(), save_every=3)
    if torch.distributed.is_initialized(): torch.distributed.destroy_process_group()
''')

def run(tmp_path, name, processes, scales='all', micro=0):
    script = tmp_path/'script.py'; script.write_text(SCRIPT)
    launch = [sys.executable] if processes == 1 else [sys.executable, '-m', 'accelerate.commands.launch', '--cpu', '--num_processes', str(processes), '--num_machines', '1', '--mixed_precision', 'no', '--dynamo_backend', 'no', '--main_process_port', '29611']
    done = subprocess.run([*launch, str(script), str(tmp_path/name), scales, str(micro)], env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES=''), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return pd.read_csv(tmp_path/name/'log.csv'), load_tensors(tmp_path/name/'model.safetensors')[0]

def same(a, b, tolerance=1e-5):
    pd.testing.assert_frame_equal(a[0], b[0], atol=tolerance, rtol=tolerance, check_like=True)
    for k, v in a[1].items(): assert torch.allclose(v, b[1][k], atol=tolerance), k

def test_two_processes_and_micro_batches_equal_one(tmp_path):
    one = run(tmp_path, 'one', 1)
    same(one, run(tmp_path, 'micro', 1, micro=3))
    same(one, run(tmp_path, 'two', 2, micro=2))

def test_two_processes_with_the_released_pass_2(tmp_path):
    same(run(tmp_path, 'one', 1, 'last'), run(tmp_path, 'two', 2, 'last'))
