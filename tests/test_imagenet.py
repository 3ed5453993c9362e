"The ImageNet path on a made-up tree of 1,000 classes with broken files: cache, training, shards; killed three times, equal to an undisturbed run."
import hashlib, os, signal, subprocess, sys, textwrap, time

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

SCRIPT = textwrap.dedent('''
    import sys, torch
    from dataclasses import replace
    from pathlib import Path
    from sar_repro.core import SIZES, TrainConfig
    from sar_repro.data import load_dataset
    from sar_repro.evaluate import balanced_labels, sample_shards
    from sar_repro.scale_ar import FlexVAR
    from sar_repro.tokenizer import load_tokenizer
    from sar_repro.train import LatentData, train, weights_hash

    tree, out, crops = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == 'crops'
    pictures = load_dataset('imagenet', 32, 'train', root=tree)
    print(len(pictures), pictures.num_classes, len(pictures.skipped), flush=True)
    vae, tiny = load_tokenizer('tiny'), SIZES['tiny'].model
    data = LatentData(vae, pictures, tiny.scales, out/'cache', crops=crops, drawn=False)
    print('cached', flush=True)
    torch.manual_seed(0)
    model = FlexVAR(replace(tiny, depth=1, num_classes=1000))
    train(model, data, TrainConfig(epochs=1, batch_size=1000, micro_batch=250, precision='fp32', warmup=0.5), out/'run', save_every=1)
    shards = sample_shards(model, vae, balanced_labels(1000, 1)[:100], out/'samples', seed=0, per_shard=20, group=10, precision='fp32', cfg=1.5, top_p=0.9)
    print(weights_hash(model), len(shards), flush=True)
''')

def start(*args): return subprocess.Popen([sys.executable, '-c', SCRIPT, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ, PYTHONPATH=str(ROOT)))

def finish(*args):
    run = start(*args); out, err = run.communicate(timeout=300)
    assert run.returncode == 0, err[-2000:]
    return out.splitlines(), err

def kill_when(there, *args):
    run, until = start(*args), time.time() + 200
    while not there() and run.poll() is None and time.time() < until: time.sleep(0.01)
    running = run.poll() is None
    run.send_signal(signal.SIGKILL); run.communicate()
    assert running, 'the run ended before it could be killed: the test shows nothing'

@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp('imagenet'), np.random.default_rng(0)
    for split, count in (('train', 2), ('val', 1)):
        for c in range(1000):
            folder = root/split/f'n{c:08}'; folder.mkdir(parents=True)
            for i in range(count): Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((45, 40)).save(folder/f'{i}.JPEG')
    for c in (3, 500, 999): f = root/f'train/n{c:08}/0.JPEG'; f.write_bytes(f.read_bytes()[:400])
    (root/'train/n00000007/1.JPEG').write_text('no picture')
    return root

def test_cache_train_and_shards_survive_kills(tree, tmp_path):
    lines, err = finish(tree, tmp_path/'whole', 'cache')
    assert lines[0] == '1996 1000 4' and '4 of 2000 images' in err
    args = tree, tmp_path/'killed', 'cache'
    kill_when(lambda: any((tmp_path/'killed/cache').glob('latents-*.json')), *args)
    assert not any((tmp_path/'killed/cache').glob('*.npy'))
    kill_when(lambda: any((tmp_path/'killed/run').glob('state-*.pt')), *args)
    kill_when((tmp_path/'killed/samples/shard-00001.npy').exists, *args)
    again, _ = finish(*args)
    assert again[-1] == lines[-1] and again[-1].endswith(' 100')
    digest = lambda p: {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(p.glob('shard-*.npy'))}
    assert len(digest(tmp_path/'whole/samples')) == 5 and digest(tmp_path/'whole/samples') == digest(tmp_path/'killed/samples')

def test_fresh_crops_train_as_well(tree, tmp_path):
    lines, _ = finish(tree, tmp_path/'crops', 'crops')
    assert lines[-1].endswith(' 100') and not list((tmp_path/'crops/cache').glob('*')) if (tmp_path/'crops/cache').exists() else True
