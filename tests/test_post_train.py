"`sar train`: a file as published, killed, gone on with, its control and the table; each base; what is refused before anything is drawn."
import json
import pandas as pd
import pytest, torch
from conftest import Forks, ROOT
from sar_repro.engine.files import load_tensors

SETUP = '''
import os, signal, sys
os.environ |= dict(MPLBACKEND='Agg', SAR_PRECISION='fp32')
import torch
from sar_repro.jobs import cli, findings, runs
'''
RUN = "os.chdir(sys.argv[1]); os.environ['SAR_WORK'] = sys.argv[1]; cli.main(sys.argv[2:])"
KILLED = '''
whole = runs.RunFolder.save
def save(self, *state): whole(self, *state); os.kill(os.getpid(), signal.SIGKILL)
runs.RunFolder.save = save
''' + RUN
forks = Forks(SETUP, CUDA_VISIBLE_DEVICES='')
SHORT = ['--epochs', '8', '--batch-size', '8', '--n', '20', '--seed', '3']

def published(size, path, *nest):
    "Our weights of a size as the authors' trainer would have written them."
    state = load_tensors(ROOT/f'pretrained/{size}/model.safetensors')[0]
    for k in reversed(nest): state = {k: state, 'epoch': 179}
    torch.save(state, path)

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "Clothes as a folder of class folders, and weights in the published format."
    from PIL import Image
    from sar_repro.data import load_dataset
    folder = tmp_path_factory.mktemp('train')
    data = load_dataset('fashion16', 16, 'train', limit=150)
    for i, (picture, label) in enumerate(zip(data.batch(torch.arange(len(data))), data.labels.tolist())):
        (at := folder/f'clothes/{label}').mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(at/f'{i:03}.png')
    published('mini', folder/'FlexVAR-epo179.pth', 'trainer', 'var_wo_ddp')
    return folder

def train(place, *words, code=RUN): return forks(code, place, 'train', *words)

def done(place, *words):
    run = train(place, *words)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout

def test_a_published_file_is_killed_gone_on_with_and_compared_with_its_control(place):
    words = ['FlexVAR-epo179.pth', '--data', 'clothes', '--control', *SHORT]
    assert train(place, *words, '--out', 'cut', code=KILLED).returncode == -9
    assert [p.name for p in (place/'cut').glob('state-*.pt')] == ['state-00000100.pt']
    said, whole = done(place, *words, '--out', 'cut'), done(place, *words, '--out', 'whole')
    assert said.replace('cut', 'whole') == whole
    for name in ('model.safetensors', 'log.csv', 'table.csv', 'control/model.safetensors', 'control/log.csv'):
        assert (place/'cut'/name).read_bytes() == (place/'whole'/name).read_bytes(), name
    table = pd.read_csv(place/'cut/table.csv', index_col=0)
    assert [*table.index] == ['start', '+ sar', '+ tf'] and table.notna().all(axis=None) and {'nats a token', 'own context, bits', 'KID x1000', 'KID se', 'recall'} <= {*table}
    assert table['nats a token'].nunique() == 3 and 'Teacher forcing for as many epochs ends at' in said
    assert 'look closer: sar diagnose FlexVAR-epo179.pth --after cut/model.safetensors --control cut/control/model.safetensors --dataset clothes' in said
    records = [json.loads(next((place/f).glob('mini-clothes-*.json')).read_text()) for f in ('cut', 'cut/control')]
    assert [r['train']['method'] for r in records] == ['sar', 'tf'] and len({r['start'] for r in records}) == len({r['train']['epochs'] for r in records}) == 1

def test_what_is_done_is_read_and_not_done_again(place):
    words = ['FlexVAR-epo179.pth', '--data', 'clothes', *SHORT, '--out', 'again']
    first = done(place, *words)
    second = train(place, *words, code='findings.measured = findings.train_run = None\n' + RUN)
    assert second.returncode == 0 and second.stdout == first, second.stderr[-2000:]
    third = done(place, *words, '--control') # the method's run stays, the control is added
    assert [line.split()[:2] for line in third.splitlines()[2:5]] == [['start', line.split()[1]] if 'start' in line else line.split()[:2] for line in third.splitlines()[2:5]] and '+ tf' in third
    other = train(place, *[w if w != '3' else '4' for w in words])
    assert other.returncode == 2 and 'holds a run with other settings: seed 3 (now 4)' in other.stderr and 'sampling' not in other.stderr

@pytest.mark.parametrize('size,method', [('hybrid-mini', 'sar'), ('mini', 'ddo'), ('mini', 'loss.py:plain')])
def test_other_files_and_methods(place, size, method):
    published(size, place/f'{size}.pth', 'state_dict')
    (place/'loss.py').write_text('from sar_repro.csfl import tf_loss\n\ndef plain(model, batch, cfg): yield from tf_loss(model, batch, cfg)\n')
    said = done(place, f'{size}.pth', '--method', method, '--budget', 'smoke', '--control')
    assert f"+ {method.replace('.py:', '-')}" in said and '+ tf' in said

def vars_files(place):
    "Random weights of VAR's kind, under the names that VAR's authors give them."
    from sar_repro.engine.core import get_size
    from sar_repro.models import make_model, make_tokenizer
    from sar_repro.var import published_name
    size, theirs = get_size('var-mini'), {}
    torch.manual_seed(0)
    for name, t in make_tokenizer(size.tokenizer).state_dict().items():
        there, _ = published_name(name, len(size.tokenizer.ch_mult))
        theirs[there] = torch.cat([theirs[there], t]) if there in theirs else t # q, k and v are one
    torch.save(theirs, place/'vae_ch16.pth')
    torch.save(make_model(size.model).state_dict(), place/'var_d4.pth')

@pytest.mark.parametrize('method', ['sar', 'ddo'])
def test_vars_files_as_published(place, method):
    vars_files(place)
    said = done(place, 'var_d4.pth', '--tokenizer', 'vae_ch16.pth', '--method', method, '--budget', 'smoke', '--control')
    assert f'+ {method}' in said and '+ tf' in said and 'look closer' not in said

MISTAKES = {
    ('gone.pth',): 'no model at gone.pth',
    ('FlexVAR-epo179.pth', '--data', 'gone'): "'gone'",
    ('FlexVAR-epo179.pth', '--data', 'photos'): 'the model knows 10 classes, photos has 2',
    ('FlexVAR-epo179.pth', '--epochs', '0'): 'epochs is 0',
    ('FlexVAR-epo179.pth', '--method', 'sra'): 'did you mean sar',
    ('FlexVAR-epo179.pth', '--method', 'tf', '--control'): 'leave --control out',
    ('FlexVAR-epo179.pth', '--method', 'tf', '--sf-share', '.5'): 'sf_share is 0.5 with method tf',
    ('FlexVAR-epo179.pth', '-p', 'epocs', '2'): 'did you mean epochs?',
    ('FlexVAR-epo179.pth', '-p', 'tracker', 'wanbd'): 'did you mean wandb'}

@pytest.mark.parametrize('words,said', MISTAKES.items(), ids=lambda v: ' '.join(v[-2:]) if isinstance(v, tuple) else '')
def test_mistakes_are_said_before_anything_is_drawn(place, words, said):
    from PIL import Image
    for i in range(40):
        (at := place/f'photos/{i%2}').mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (16, 16), (6*i, 0, 0)).save(at/f'{i}.png')
    run = train(place, *words, code='findings.measured = None\n' + RUN)
    assert run.returncode == 2 and said in run.stderr and 'Traceback' not in run.stderr, run.stderr

PAIR = '''
import os, sys, torch
from dataclasses import replace
from sar_repro.engine.core import TrainConfig
from sar_repro.engine.machine import autocast
from sar_repro.jobs.runs import ToyTokens, toy_model
from sar_repro.strategies import METHODS

def mapped(): # kB of a file without a name that this process maps, and of them changed by it, so that the kernel made copies
    found, held = [0, 0], False
    for line in open('/proc/self/smaps'):
        if '-' in line.split()[0]: held = 'weights.pt (deleted)' in line
        elif held: found = [a + int(line.split()[1]) if line.startswith(k) else a for a, k in zip(found, ('Size:', 'Anonymous:'))]
    return found

def both(rank, place):
    torch.distributed.init_process_group('gloo', f'file://{place}/meet', rank=rank, world_size=2)
    os.environ['LOCAL_RANK'] = str(rank)
    model, batch = toy_model().requires_grad_(False), ToyTokens().batch(torch.arange(8))
    for precision in ('fp32', 'bf16'):
        cfg, ddo, plain = TrainConfig(method='ddo', precision=precision), *(METHODS['ddo'].prepare(model) for _ in range(2))
        plain.light = True # each with a copy of its own, in float32
        with autocast(torch.device('cpu'), precision): losses = [[loss.item() for _, loss, _ in fn(model, batch, cfg)] for fn in (ddo, plain)]
        bytes_ = [sum(p.nbytes for p in fn.ref.parameters()) for fn in (ddo, plain)]
        (size, changed) = mapped()
        open(f'{place}/{precision}-{rank}', 'w').write(f"{losses[0] == losses[1]} {bytes_[0]/bytes_[1]:.2f} {size*1024 >= bytes_[0]} {changed}")

if __name__ == '__main__': torch.multiprocessing.spawn(both, (sys.argv[1],), 2)
'''

def test_processes_of_a_machine_hold_ddos_reference_once_and_in_16_bits(tmp_path):
    from conftest import python
    (tmp_path/'pair.py').write_text(PAIR)
    run = python(tmp_path/'pair.py', tmp_path, env=dict(PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1'))
    assert run.returncode == 0, run.stderr[-2000:]
    for rank in (0, 1):
        assert (tmp_path/f'fp32-{rank}').read_text() == 'True 1.00 True 0' # each process maps the file, and has changed none of it
        same, share, *rest = (tmp_path/f'bf16-{rank}').read_text().split()
        assert same == 'True' and float(share) < 0.6 and rest == ['True', '0']

def test_two_processes_end_in_the_table_of_one(place):
    from conftest import python
    words = ['FlexVAR-epo179.pth', '--data', 'clothes', '--epochs', '2', '--batch-size', '32', '-p', 'n_samples', '20'] # torchrun takes --n for one of its own
    done(place, *words, '--out', 'one')
    env = dict(PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1', SAR_WORK=str(place), SAR_PRECISION='fp32')
    run = python('-m', 'torch.distributed.run', '--nproc-per-node', '2', '--master-port', '29617', '-m', 'sar_repro', 'train', *words, '--out', 'two', cwd=place, env=env)
    assert run.returncode == 0, run.stderr[-2000:]
    one, two = (pd.read_csv(place/name/'table.csv', index_col=0) for name in ('one', 'two'))
    assert run.stdout.count('look closer') == 1 and (one - two).abs()['nats a token'].max() < 1e-4, (one, two)
