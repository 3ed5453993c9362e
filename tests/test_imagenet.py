"The ImageNet path on a made-up tree of many classes with broken files: cache, training, shards; killed three times, equal to an undisturbed run."
import hashlib, json, os, shutil, subprocess, sys, textwrap

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

CLASSES = 60
SCRIPT = textwrap.dedent('''
    import os, pandas, signal, sys, time, torch, torch._dynamo # what a run imports on its way, too: once for all forks
    from dataclasses import replace
    from pathlib import Path
    from sar_repro.engine.core import SIZES, TrainConfig
    from sar_repro.data import load_dataset
    from sar_repro.sampling import sample_shards
    from sar_repro.scale_ar import FlexVAR
    from sar_repro.models import load_tokenizer
    from sar_repro.engine.files import weights_hash
    from sar_repro.models import LatentData
    from sar_repro.jobs.runs import train_run
    from sar_repro.strategies import get_loss

    def work(out, crops=False):
        pictures = load_dataset('imagenet', 32, 'train', root=sys.argv[1])
        vae, tiny = load_tokenizer('tiny'), SIZES['tiny'].model
        data = LatentData(vae, pictures, tiny.scales, out/'cache', crops=crops, drawn=False)
        torch.manual_seed(0)
        model = FlexVAR(replace(tiny, depth=1, embed_dim=64, num_heads=1, num_classes=pictures.num_classes))
        train_run(model, data, get_loss('sar'), TrainConfig(epochs=1, batch_size=60, micro_batch=30, precision='fp32', warmup=0.5), out/'run', save_every=1)
        shards = sample_shards(model, vae, torch.arange(pictures.num_classes)[:50], out/'samples', seed=0, per_shard=10, group=5, precision='fp32', guidance=1.5, top_p=0.9)
        print(out.name, len(pictures), pictures.num_classes, len(pictures.skipped), weights_hash(model), len(shards), flush=True)

    def child(*args): # a fork, so that the libraries are loaded once for all attempts
        if pid := os.fork(): return pid
        try: work(*args)
        except BaseException as e: print(type(e).__name__, e, file=sys.stderr, flush=True); os._exit(1)
        os._exit(0)

    def finish(*args): assert os.waitpid(child(*args), 0)[1] == 0

    def kill_when(there, *args):
        pid, until, over = child(*args), time.time() + 200, 0
        while not there() and time.time() < until and not over: over = os.waitpid(pid, os.WNOHANG)[0]; time.sleep(0.01)
        assert not over, 'the run ended before it could be killed: the test shows nothing'
        os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)

    sys.modules['sar_repro.data'].PART = 32 # pictures of a part of the cache
    out = Path(sys.argv[2])
    finish(out/'whole')
    killed = out/'killed'
    kill_when(lambda: any((killed/'cache').glob('latents-*-000000000.npy')), killed)
    assert not any((killed/'cache').glob('latents-*.sum')) # its parts are not joined yet
    kill_when(lambda: any((killed/'run').glob('state-*.pt')), killed)
    kill_when((killed/'samples/shard-00001.npy').exists, killed)
    finish(killed)
    finish(out/'crops', True)
''')

@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp('imagenet'), np.random.default_rng(0)
    for split, count in (('train', 2), ('val', 1)):
        for c in range(CLASSES):
            folder = root/split/f'n{c:08}'; folder.mkdir(parents=True)
            for i in range(count): Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((45, 40)).save(folder/f'{i}.JPEG')
    for c in (3, 50, CLASSES - 1): f = root/f'train/n{c:08}/0.JPEG'; f.write_bytes(f.read_bytes()[:400])
    (root/'train/n00000007/1.JPEG').write_text('no picture')
    return root

def test_cache_train_and_shards_survive_kills_and_fresh_crops_train_as_well(tree, tmp_path):
    done = subprocess.run([sys.executable, '-c', SCRIPT, str(tree), str(tmp_path)], capture_output=True, text=True, timeout=600, env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'))
    assert done.returncode == 0, done.stderr[-2000:]
    whole, again, crops = (line.split() for line in done.stdout.splitlines())
    assert whole[1:4] == [f'{2*CLASSES - 4}', f'{CLASSES}', '4'] and f'4 of {2*CLASSES} images' in done.stderr
    assert again == ['killed', *whole[1:]] and int(whole[5]) == 50 == int(crops[5])
    digest = lambda p: {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(p.glob('shard-*.npy'))}
    assert len(digest(tmp_path/'whole/samples')) == 5 and digest(tmp_path/'whole/samples') == digest(tmp_path/'killed/samples')
    assert not list((tmp_path/'crops/cache').glob('*'))

PAPER = textwrap.dedent('''
    import json, os, sys, matplotlib
    matplotlib.use('Agg')
    from dataclasses import replace
    from types import SimpleNamespace
    import IPython.display, matplotlib.pyplot, seaborn, torch
    from sar_repro.engine import core
    from sar_repro.evaluate import feature_extractor; metrics = sys.modules['sar_repro.evaluate'] # the package has a function of this name
    from sar_repro.engine.files import weights_path
    tiny = core.SIZES['tiny'] # stands in for d16: two classes, so that 50 a class are a hundred samples
    core.SIZES['d16'] = d16 = replace(core.SIZES['d16'], image_size=32, tokenizer=tiny.tokenizer, model=replace(tiny.model, depth=1, num_classes=2))
    from sar_repro.scale_ar import FlexVAR
    from sar_repro.tokenizer import FlexVAE
    if not weights_path('d16', 'model').is_file():
        torch.manual_seed(0); weights_path('d16', 'model').parent.mkdir()
        torch.save(dict(model=FlexVAE(d16.tokenizer).state_dict()), weights_path('d16', 'tokenizer'))
        torch.save(dict(trainer=dict(var_wo_ddp=FlexVAR(d16.model).state_dict())), weights_path('d16', 'model'))
    real = metrics.feature_extractor
    metrics.feature_extractor = lambda weights=None: (real()[0], 'FID') # Inception's weights cannot be had here; before others import it
    import pandas, torch._dynamo, sar_repro.exposure_bias, sar_repro.jobs.findings, sar_repro.jobs.published # before the forks
    IPython.display.display = lambda *shown, **how: SimpleNamespace(update=lambda figure: None) # there is no front end
    def run(method):
        space = {}
        for cell in json.load(open(sys.argv[1]))['cells']: # as papermill runs a notebook: all cells, the parameters after the tagged one
            if cell['cell_type'] != 'code': continue
            exec(''.join(cell['source']), space)
            if 'parameters' in cell['metadata'].get('tags', []): space.update(size='d16', n_samples=100, epochs=1, crop=32, method=method)
        print(space['job'].kind, space['table'].to_string(), space['findings'](space['record']))

    for method in ('sar', 'tf'): # each in a process of its own
        if not (pid := os.fork()):
            run(method)
            sys.exit()
        assert os.waitpid(pid, 0)[1] == 0, method
        print('=' * 9, flush=True)
''')

def test_the_paper_run_measures_the_start_once_and_fills_the_table(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (('train', 6), ('val', 3)):
        for c in range(2):
            folder = tmp_path/f'data/imagenet/{split}/n{c:08}'; folder.mkdir(parents=True)
            for i in range(count): Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((45, 40)).save(folder/f'{i}.JPEG')
    (tmp_path/'results').mkdir()
    shutil.copy(ROOT/'results/quoted.csv', tmp_path/'results')
    done = subprocess.run([sys.executable, '-c', PAPER, str(ROOT/'nbs/07_train.ipynb')], capture_output=True, text=True, timeout=500, env=dict(os.environ, SAR_HOME=str(tmp_path), PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'))
    assert done.returncode == 0, done.stderr[-2000:]
    said, control, _ = done.stdout.split('=' * 9)
    assert 'PAPER' in said and 'measured' in said and '3.05' in said and '2.89' in said and 'published for SAR: 2.89' in said and 'ends at 181' in said
    def record(name): return json.loads(next((tmp_path/'results').glob(f'{name}*.json')).read_text())
    base, sar = record('d16-FlexVARd16-epo179'), record('d16-imagenet-sar')
    assert (base['method'], sar['method']) == ('base', 'sar') and base['protocol'] == sar['protocol'] == 'imagenet256' and base['n'] == sar['n'] == 100 and base['date'] == sar['date']
    assert sar['before']['FID'] == base['FID'] and 768 % sar['train']['micro_batch'] == 0
    from sar_repro.jobs.published import paper_table
    table = paper_table(tmp_path/'results')
    assert [table.loc[row, 'FID'] for row in (('FlexVAR-d16', 'measured'), ('FlexVAR-d16 + SAR', 'measured'), ('FlexVAR-d16 + SAR', 'trained here'))] == [base['FID'], '', sar['FID']]
    assert 'not drawn again' in control and not list((tmp_path/'runs').glob('d16-imagenet-tf-*/samples-before'))
    assert record('d16-imagenet-tf')['method'] == 'control'
