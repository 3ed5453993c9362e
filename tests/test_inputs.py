"Bad input through the command line: one clear sentence, exit code other than 0, nothing half-written."
import json
import pytest
from safetensors import safe_open
from safetensors.torch import save_file
from conftest import ROOT, sar

WEIGHTS = ROOT/'pretrained/tiny'

def altered(path, change=lambda tensors: None, **facts): # the shipped model with other weights or another header
    with safe_open(WEIGHTS/'model.safetensors', 'pt') as f: tensors, meta = {k: f.get_tensor(k) for k in f.keys()}, dict(f.metadata())
    for k in ('checksum', 'classes'): meta.pop(k, None) # of other weights
    change(tensors)
    save_file(tensors, path, metadata=meta | {k: json.dumps(v) for k, v in facts.items()})

def ten_classes(tensors): tensors['class_emb.weight'] = tensors['class_emb.weight'][:11].clone() # and one for none

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp('bad') # nothing is written there, which each test checks
    with safe_open(WEIGHTS/'model.safetensors', 'pt') as f: config = json.loads(f.metadata()['config'])
    altered(tmp_path/'ten.safetensors', ten_classes, config=config | dict(num_classes=10))
    altered(tmp_path/'one.safetensors', config=config | dict(scales=[8]))
    altered(tmp_path/'codes.safetensors', tokenizer='f00d')
    (tmp_path/'elsewhere').mkdir()
    altered(tmp_path/'elsewhere/model.safetensors')
    (tmp_path/'elsewhere/run.json').write_text('{"start": "f00d"}')
    whole = (WEIGHTS/'model.safetensors').read_bytes()
    (tmp_path/'cut.safetensors').write_bytes(whole[:len(whole)//2])
    (tmp_path/'text.safetensors').write_text('no weights')
    (tmp_path/'cut.parquet').mkdir()
    (tmp_path/'cut.parquet/emoji64.parquet').write_bytes((ROOT/'data/emoji64.parquet').read_bytes()[:5000])
    (tmp_path/'empty').mkdir()
    altered(tmp_path/'evil.safetensors', kind='Model\x1b[2J\nsar: all is well')
    for name, facts in (('config', dict(config='text')), ('scales', dict(config=config | dict(scales=8))), ('sides', dict(config=config | dict(scales=['a', None]))), ('names', dict(classes=7, data=[1], tokenizer={}))):
        altered(tmp_path/f'odd-{name}.safetensors', **facts)
    (tmp_path/'phone/sea').mkdir(parents=True)
    for i in range(3): (tmp_path/f'phone/sea/{i}.HEIC').touch()
    return tmp_path

CASES = {
    'unknown size': (['sample', '--size', 'huge'], 'unknown size'),
    'truncated checkpoint': (['sample', 'cut.safetensors'], 'not a whole safetensors file'),
    'not a checkpoint': (['evaluate', 'text.safetensors'], 'not a whole safetensors file'),
    'missing checkpoint': (['sample', 'gone.safetensors'], 'no model at'),
    'tokenizer as model': (['sample', str(WEIGHTS/'tokenizer.safetensors')], 'holds a FlexVAE'),
    'unknown dataset': (['evaluate', '--dataset', 'nothing'], 'unknown dataset'),
    'empty folder': (['evaluate', '--dataset', 'empty'], 'empty'),
    'truncated parquet': (['evaluate', '--data-dir', 'cut.parquet'], 'emoji64.parquet'),
    'diagnosis of a tokenizer': (['diagnose', str(WEIGHTS/'tokenizer.safetensors')], 'holds a FlexVAE'),
    'diagnosis on unknown data': (['diagnose', '--dataset', 'nothing'], 'unknown dataset'),
    'diagnosis with other classes': (['diagnose', 'ten.safetensors', '--n', '20'], 'knows 10 classes, the data have 27'),
    'diagnosis of one scale': (['diagnose', 'one.safetensors', '--n', '20'], 'schedule (8,)'),
    'diagnosis with another tokenizer': (['diagnose', 'codes.safetensors', '--n', '20'], 'another tokenizer: its file names f00d'),
    'diagnosis after another start': (['diagnose', '--n', '20', '--after', 'elsewhere/model.safetensors'], 'was not trained from the weights'),
    'missing reference': (['evaluate', '--reference', 'gone.npz'], 'no reference at'),
    'torn reference': (['evaluate', '--reference', 'cut.parquet/emoji64.parquet'], 'not a whole npz file'),
    'empty reference': (['evaluate', '--reference', 'empty'], 'no readable pictures'),
    'terminal codes in a header': (['sample', 'evil.safetensors'], r'holds a Model\x1b[2J\nsar: all is well, expected'),
    'a header of text': (['sample', 'odd-config.safetensors'], 'odd-config.safetensors has a header that does not describe'),
    'a schedule of one number': (['sample', 'odd-scales.safetensors'], 'odd-scales.safetensors has a header that does not'),
    'a schedule of words': (['sample', 'odd-sides.safetensors'], 'odd-sides.safetensors has a header that does not'),
    'a tokenizer that is none': (['sample', 'odd-names.safetensors'], 'another tokenizer'),
    'a folder of what Pillow does not read': (['new', 'phone'], 'holds no images, but 3 (ending .heic): expected one folder per class'),
    'a file as folder': (['new', 'text.safetensors'], 'text.safetensors is no folder: expected one of pictures, a folder a class'),
    'unknown class': (['sample', '--classes', 'dragons'], 'dragons'),
    'guidance of nan': (['sample', '--cfg', 'nan'], 'guidance is nan: expected a number from 0 to 100'),
    'guidance beyond reason': (['evaluate', '--cfg', '1e38'], 'guidance is 1e+38'),
    'nucleus above one': (['sample', '--top-p', '7'], 'top_p is 7.0: expected a number from 0 to 1'),
    'nucleus below zero': (['evaluate', '--top-p', '-1'], 'top_p is -1.0'),
    'fewer codes than none': (['sample', '--top-k', '-5'], 'top_k is -5: expected a whole number'),
    'seed of 65 bits': (['diagnose', '--seed', str(2**64)], 'seed is 18446744073709551616'),
    'no class': (['sample', '--classes', ','], '--classes names no class'),
    'more than a picture holds': (['sample', '--n', '1000000000'], 'do not fit into one picture'),
    'a folder as picture': (['sample', '--out', 'empty'], 'it is a folder'),
    'results into a folder': (['evaluate', '--out', 'empty'], 'it is a folder'),
    'executed copy without its ending': (['run', '07', '--out', 'copy.txt'], 'ends in .ipynb'),
    'an ending of no picture': (['sample', '--out', 'food.bmp'], 'ends in .png'),
    'a name of 300 bytes': (['sample', '--out', 'n' * 296 + '.png'], 'is a name of 300 bytes'),
    'a data set of such a name': (['evaluate', '--dataset', 'n' * 300], 'is a name of 300 bytes'),
    'parameters of such a name': (['run', '07', '-p', 'dataset', 'n' * 300], 'is a name of 300 bytes'),
    'empty reference text': (['evaluate', '--reference', ''], 'an empty text follows --reference'),
    'empty output': (['evaluate', '--out='], 'an empty text follows --out'),
    'empty folder name': (['new', ''], 'an empty text follows new'),
    'empty weights': (['sample', ''], 'an empty text follows sample'),
    'no such golden file': (['parity', 'gone.safetensors'], 'no such file'),
}

@pytest.mark.parametrize('args,words', CASES.values(), ids=CASES)
def test_one_clear_message(files, args, words):
    before = sorted(files.rglob('*'))
    got = sar(*args, cwd=files)
    assert got.returncode not in (0, None), got.stdout
    assert words in got.stderr and 'Traceback' not in got.stderr, got.stderr
    assert sorted(files.rglob('*')) == before

def test_checkpoint_of_another_size(files):
    got = sar('sample', str(WEIGHTS/'model.safetensors'), '--size', 'small', cwd=files)
    assert got.returncode == 2 and 'which is size tiny: pass that size' in got.stderr, got.stderr

def test_an_interrupted_job_says_what_is_kept_and_how_to_go_on(tmp_path, monkeypatch):
    def stopped(*args, **kwargs): raise KeyboardInterrupt
    monkeypatch.setattr('sar_repro.jobs.own.own_pictures', stopped)
    (tmp_path/'out/start').mkdir(parents=True)
    (tmp_path/'my pictures').mkdir()
    (tmp_path/'out/tokenizer.safetensors').touch()
    (tmp_path/'out/start/state-00000010.pt').touch()
    got = sar('new', 'my pictures', '--size', 'mini', '--out', 'out', cwd=tmp_path)
    assert got.returncode == 130 and 'stopped; kept in out: tokenizer, a state of start, ' in got.stderr, got.stderr
    assert got.stderr.endswith("go on: sar new 'my pictures' --size mini --out out\n"), got.stderr

def test_a_warning_is_said_once_without_its_place_in_the_code(tmp_path):
    from PIL import Image
    for i in range(60):
        path = tmp_path/'pictures'/'ab'[i % 2]/f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', (8, 8), i).save(path)
    for i in (0, 1, 2): (tmp_path/f'pictures/{"ab"[i % 2]}/{i}.png').write_text('no picture') # of either part
    got = sar('new', 'pictures', '--size', 'mini', '--out', 'pictures', cwd=tmp_path) # refused once the pictures are known
    assert got.returncode == 2 and 'not of `sar new`' in got.stderr, got.stderr
    said = [line for line in got.stderr.splitlines() if 'skipped' in line]
    assert len(said) == 1 and 'sar: 3 of 60 images in pictures cannot be read and are skipped' in said[0], got.stderr
    assert '.py:' not in got.stderr
