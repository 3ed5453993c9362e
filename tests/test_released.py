"tools/released.py, dry: against a small stand-in with the released code's interface, written here on our own modules; and what it says where something is missing."
import json, os, runpy, subprocess, sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT/'tools'))
import released

STAND_IN = {
    'dist.py': 'def get_device(): return "cuda"  # which the script replaces\n',
    'models/__init__.py': 'from .flexvar import FlexVAR\n',
    'models/flexvar.py': '''
import dist, torch
from sar_repro.engine.core import ModelConfig
from sar_repro.scale_ar import FlexVAR as Net, generate

class FlexVAR(Net):
    def __init__(self, vae, num_classes, depth, embed_dim, num_heads, drop_path_rate, attn_l2_norm, patch_nums):
        super().__init__(ModelConfig(depth, embed_dim, num_heads, vae.vocab_size, 32, num_classes, tuple(patch_nums)))
        self.cond_drop_rate, self.rng = 0.1, torch.Generator(dist.get_device())
    def forward(self, labels, inputs, scales, student_forcing=False):
        return super().forward(labels, inputs, scales, with_start=not student_forcing)[:, int(student_forcing):]
    def autoregressive_infer_cfg(self, vqvae, B, label_B, infer_patch_nums, g_seed, cfg, top_k, top_p):
        tokens = generate(self, vqvae.quantize, label_B, cfg, top_k=top_k, top_p=top_p, seed=g_seed)
        return vqvae.decode_code(tokens[:, -infer_patch_nums[-1] ** 2:], (B, 32, *infer_patch_nums[-1:] * 2))
''',
    'models/vq_llama.py': '''
from sar_repro.engine.core import TokenizerConfig
from sar_repro.tokenizer import FlexVAE

class VQModel(FlexVAE):
    def __init__(self, codebook_size, codebook_embed_dim):
        super().__init__(TokenizerConfig(vocab_size=codebook_size, latent_channels=codebook_embed_dim))
        self.vocab_size = codebook_size
    encode_conti = FlexVAE.encode
    def decode_code(self, codes, shape): return self.decode_latent(self.quantize.lookup(codes).mT.unflatten(-1, shape[2:]))

VQ_models = {'VQ-16': VQModel}
''',
    'utils/amp_sc.py': '''
class AmpOptimizer:
    def __init__(self, mixed_precision, optimizer, names, paras, grad_clip): self.optimizer = optimizer
''',
    'trainer.py': '''
from models import FlexVAR
from utils.misc import MetricLogger
from utils.logger import UnifiedLogger

class VARTrainer:
    def __init__(self, device, patch_nums, resos, vae_local, var_wo_ddp, var, var_opt, label_smooth, training_mode, sigma):
        assert training_mode == 'csfl' and sigma == 0.01
        self.vae, self.var, self.opt = vae_local, var, var_opt
    def train_step(self, it, g_it, stepping, metric_lg: MetricLogger, tb_lg: UnifiedLogger, inp_B3HW, label_B, prog_si, prog_wp_it):
        scales = self.gen_curr_patch_nums()
        tokens = self.vae.tokenize(self.vae.encode_conti(inp_B3HW), scales)
        with self.opt.amp_ctx: logits = self.var(label_B, self.vae.quantize.lookup(tokens[:, 1:]), scales)
        logits.logsumexp(-1).mean().backward()
        self.opt.optimizer.step()
        self.opt.optimizer.zero_grad()
'''}

def checkout(folder, **changed):
    for name, text in (STAND_IN | changed).items():
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        (folder/name).write_text(text)
    return folder

def script(*args):
    words = [sys.executable, str(ROOT/'tools/released.py'), '--size', 'small', '--depth', '1', '--pictures', '1', '--pairs', '1', '--precisions', 'fp32', *map(str, args)]
    return subprocess.run(words, capture_output=True, text=True, timeout=300, env=dict(os.environ, PYTHONPATH=str(ROOT)))

def test_both_parts_run_dry(tmp_path):
    folder, out = checkout(tmp_path/'sar'), tmp_path/'record.json'
    done = script('--sar', folder, '--device', 'cpu', '--out', out)
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads(out.read_text())
    assert record['dry'] and {'commit', 'machine', 'versions'} <= record.keys() and str(tmp_path) not in out.read_text()
    assert [(r['part'], r['precision'], r['released'], len(r['pairs'])) for r in record['rows']] == [('sampling', 'fp32', 'unknown', 1), ('step', 'fp32', 'unknown', 1)]
    for row in record['rows']:
        assert all(row[side][k] > 0 for side in ('theirs', 'ours') for k in ('seconds', 'processor', 'TFLOP', 'memory_GB', 'products', 'share_of_R'))
        assert row['ratio of seconds']['least'] <= row['ratio of seconds']['median'] <= row['ratio of seconds']['most']
        assert row['facts'] == dict(stood_in=['utils.misc', 'utils.logger'], attention="PyTorch's")
    drawn, stepped = record['rows']
    assert drawn['theirs']['TFLOP'] == pytest.approx(drawn['ours']['TFLOP'], rel=0.05) # the stand-in draws as we do
    assert stepped['theirs']['TFLOP'] < stepped['ours']['TFLOP'] # it takes one pass where SAR takes three
    assert 'times as fast' in done.stdout and 'our products alone would be' in done.stdout

def test_what_computes_otherwise_is_not_measured(tmp_path):
    other = STAND_IN['models/flexvar.py'].replace('int(student_forcing):]', 'int(student_forcing):] * 1.01')
    done = script('--flexvar', checkout(tmp_path, **{'models/flexvar.py': other}), '--parts', 'sampling')
    assert done.returncode == 1 and 'do not compute the same: their logits differ from ours by 0.0099 of the largest' in done.stderr

@pytest.mark.parametrize('args,words', [
    ((), 'sampling needs the released code: clone github.com/jiaosiyu1999/FlexVAR and pass its folder as --flexvar'),
    (('--flexvar', 'here'), 'step needs the released code: clone github.com/GengzeZhou/SAR and pass its folder as --sar'),
    (('--sar', 'nowhere'), 'there is no models/flexvar.py in nowhere: expected a checkout of github.com/GengzeZhou/SAR'),
    (('--parts', 'steps'), "unknown part 'steps'"), (('--precisions', 'fp16'), "unknown precision 'fp16'"), (('--pairs', '0'), '--pairs is 0: expected at least 1'),
    (('--sar', 'here', '--out', 'nowhere/record.json'), 'there is no folder nowhere for the record'),
    (('--sar', 'here', '--out', 'other.json'), 'other.json is no record of this machine: name another --out')])
def test_it_says_what_is_missing(args, words, tmp_path, monkeypatch):
    checkout(tmp_path/'here')
    (tmp_path/'other.json').write_text('{"machine": "another"}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['released.py', *args])
    with pytest.raises(SystemExit) as e: runpy.run_path(str(ROOT/'tools/released.py'), run_name='__main__')
    assert words in str(e.value) and '\n' not in str(e.value)

@pytest.mark.parametrize('name,text,words', [
    ('trainer', 'import kineto_logs', 'trainer of {} needs kineto_logs, which is not here: install it, or complete the checkout'),
    ('trainer', 'raise OSError("no CUDA")', 'trainer of {} does not import (OSError: no CUDA): expected a checkout of github.com/GengzeZhou/SAR'),
    ('trainer', 'class VARTrainer:\n    def __init__(self, device): pass', "the trainer in {} knows no training_mode, so it is not SAR's")])
def test_it_says_what_does_not_import(name, text, words, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'path', list(sys.path))
    folder, before = checkout(tmp_path, **{f'{name}.py': text}), set(sys.modules)
    try:
        with pytest.raises(released.Missing) as e: released.their_trainer(dict(folder=str(folder), source='sar'))
    finally:
        for module in set(sys.modules) - before:
            if module.split('.')[0] in ('trainer', 'utils'): del sys.modules[module]
    assert words.format(folder) in str(e.value)

def test_products_of_attention_are_counted():
    import torch
    q = torch.randn(1, 2, 64, 32, requires_grad=True)
    with released.counter() as seen: torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=torch.zeros(1, 1, 64, 64)).sum().backward()
    assert seen.get_total_flops() == 7 * 2 * 2 * 64 * 64 * 32 # two products forward, four backward and one again

def test_ratios_are_theirs_over_ours():
    turn = lambda seconds: dict(seconds=seconds, processor=2 * seconds)
    rows = [dict(R_TFLOPs=0.1, theirs=turn(t), ours=turn(o)) for t, o in ((8, 4), (9, 3), (10, 4))]
    found = released.summary(rows, dict(theirs=4e11, ours=2e11), dict(theirs=5.0, ours=4.0))
    assert found['ratio of seconds'] == found['ratio of processor'] == dict(median=2.5, least=2.0, most=3.0)
    assert found['theirs']['share_of_R'] == pytest.approx(4 / 9) and found['ours']['products'] == pytest.approx(2)
    assert found['ratio if ours were products alone'] == pytest.approx(4.5)
