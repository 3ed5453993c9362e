"`sar run --all`: every notebook once, what is up to date not again, what was cut from there on."
import json
import pytest
from conftest import ROOT, sar
from test_cli import notebook

@pytest.fixture
def toys(tmp_path, monkeypatch):
    "Three notebooks in place of the real ones; the second fails while a file called `stop` is there."
    from sar_repro.jobs import notebooks
    paths = []
    for i, source in enumerate(["print('one')", "from pathlib import Path\nassert not Path('stop').exists()", "print(size, budget)"]):
        folder = tmp_path/str(i); folder.mkdir()
        paths.append(notebook(folder, "size = 'tiny'\nbudget = 'full'", source).rename(tmp_path/f'0{i + 2}_toy.ipynb'))
    monkeypatch.setattr(notebooks, 'pipeline', lambda: paths)
    for place in ('home', 'work'): monkeypatch.setattr(notebooks, place, lambda: tmp_path)
    monkeypatch.setenv('SAR_WORK', '') # set by a run, and restored after the test
    (tmp_path/'nbs').mkdir(); (tmp_path/'sar_repro').mkdir()
    return tmp_path

def test_skips_resumes_and_lists(toys):
    (toys/'stop').touch()
    cut = sar('run', '--all', '--budget', 'smoke', '--out', toys/'all')
    assert cut.returncode == 1 and 'AssertionError' in cut.stderr and '1 of 3: 02_toy' in cut.stderr
    assert (toys/'all/02_toy.html').is_file() and 'not yet' in (toys/'all/index.html').read_text()
    (toys/'stop').unlink()
    whole = sar('run', '--all', '--budget', 'smoke', '--out', toys/'all')
    assert whole.returncode == 0, whole.stderr
    assert '2 notebooks run' in whole.stdout and '1 were up to date' in whole.stdout and '02_toy;' not in whole.stderr
    assert 'tiny smoke' in (toys/'all/04_toy.html').read_text() and 'not yet' not in (toys/'all/index.html').read_text()
    assert '0 notebooks run' in sar('run', '--all', '--budget', 'smoke', '--out', toys/'all').stdout
    changed = json.loads((toys/'03_toy.ipynb').read_text()); changed['cells'][1]['source'] += '\n2 + 2'
    (toys/'03_toy.ipynb').write_text(json.dumps(changed))
    assert '1 notebooks run' in sar('run', '--all', '--budget', 'smoke', '--out', toys/'all').stdout

SOME = '06_csfl', '07_train' # nbdev_test runs every notebook; here the way through papermill is tested

def test_the_real_pipeline_in_small(tmp_path, monkeypatch):
    "Real notebooks with the smoke budget, through papermill; nothing of the repository is touched."
    from sar_repro.jobs import notebooks
    whole = notebooks.pipeline()
    assert [p.stem.split('_')[0] for p in whole] == ['02', '03', '03b', '03c', '04', '05', '06', '07', '08', '09', '09b', '09c', '09d', '10', '10b', '11', '11b']
    monkeypatch.setattr(notebooks, 'pipeline', lambda: [p for p in whole if p.stem in SOME])
    before = {f: f.stat().st_mtime_ns for part in ('figures', 'results') for f in (ROOT/part).rglob('*') if f.is_file()}
    done = sar('run', '--all', '--budget', 'smoke', '--out', tmp_path/'all')
    assert done.returncode == 0, done.stderr[-3000:]
    assert f'{len(SOME)} notebooks run in' in done.stdout and ', 0 were up to date' in done.stdout, done.stdout
    assert sorted(p.stem for p in (tmp_path/'all').glob('[01]*.html')) == sorted(SOME)
    assert before == {f: f.stat().st_mtime_ns for part in ('figures', 'results') for f in (ROOT/part).rglob('*') if f.is_file()}
