"A killed training run ends with the weights of an undisturbed one, bit for bit."
import os, signal, subprocess, sys, textwrap, time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

SCRIPT = textwrap.dedent('''
    import sys, torch
    from sar_repro.core import ModelConfig, TrainConfig
    from sar_repro.scale_ar import FlexVAR
    from sar_repro.tokenizer import Codebook
    from sar_repro.train import TokenData, train, weights_hash

    class Toy(TokenData):
        def __init__(self, n=160, scales=(1, 2, 3), vocab=32):
            g = torch.Generator().manual_seed(0)
            self.tokens = torch.randint(vocab, (n, 2, 14), generator=g).short()
            self.labels, self.scales, self.num_classes, self.name, self.stamp = torch.arange(n) % 3, scales, 3, 'toy', 'toy'
            torch.manual_seed(0); self.book = Codebook(vocab, 8).requires_grad_(False)

    torch.set_num_threads(1); torch.manual_seed(1)
    model = FlexVAR(ModelConfig(depth=2, embed_dim=64, num_heads=1, vocab_size=32, latent_channels=8, num_classes=3, scales=(1, 2, 3), pos_side=4))
    data = Toy()
    print('ready', flush=True)
    train(model, data, TrainConfig(epochs=6, batch_size=16, lr=1e-3, precision='fp32', rollout_cfg=1.2), sys.argv[1], held=data, save_every=3)
    print(weights_hash(model), flush=True)
''')

def start(folder):
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    return subprocess.Popen([sys.executable, '-c', SCRIPT, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)

def finish(folder):
    run = start(folder); out, err = run.communicate(timeout=180)
    assert run.returncode == 0, err
    return out.split()[-1]

def test_sigkill_and_resume_give_the_same_weights(tmp_path):
    undisturbed = finish(tmp_path/'whole')
    kills = 0
    for delay in (0.15, 0.4):
        run = start(tmp_path/'killed'); run.stdout.readline()
        until = time.time() + 60
        while not (tmp_path/'killed/state.pt').exists() and time.time() < until: time.sleep(0.01)
        time.sleep(delay)
        if run.poll() is None: run.send_signal(signal.SIGKILL); kills += 1
        run.wait()
    assert kills, 'the run ended before it could be killed: the test shows nothing'
    assert finish(tmp_path/'killed') == undisturbed

def test_folder_without_permission_is_one_clear_error(tmp_path):
    (tmp_path/'file').write_text('not a folder')
    run = start(tmp_path/'file'/'run'); _, err = run.communicate(timeout=180)
    assert run.returncode != 0 and 'cannot write' in err
