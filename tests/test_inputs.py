"Bad input through the command line: one clear sentence, exit code other than 0, nothing half-written."
import pytest
from conftest import ROOT, sar

WEIGHTS = ROOT/'pretrained/tiny'

@pytest.fixture
def files(tmp_path):
    whole = (WEIGHTS/'model.safetensors').read_bytes()
    (tmp_path/'cut.safetensors').write_bytes(whole[:len(whole)//2])
    (tmp_path/'text.safetensors').write_text('no weights')
    (tmp_path/'cut.parquet').mkdir()
    (tmp_path/'cut.parquet/emoji64.parquet').write_bytes((ROOT/'data/emoji64.parquet').read_bytes()[:5000])
    (tmp_path/'empty').mkdir()
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
    'missing reference': (['evaluate', '--reference', 'gone.npz'], 'no reference at'),
    'torn reference': (['evaluate', '--reference', 'cut.parquet/emoji64.parquet'], 'not a whole npz file'),
    'empty reference': (['evaluate', '--reference', 'empty'], 'no readable pictures'),
    'unknown class': (['sample', '--classes', 'dragons'], 'dragons'),
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
    assert got.returncode == 2 and ('another size' in got.stderr or 'no tokenizer' in got.stderr), got.stderr
