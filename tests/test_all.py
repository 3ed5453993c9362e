"`sar run --all`: every notebook once, what is up to date not again, what was cut from there on."
import json, re
import pytest
from conftest import ROOT, sar, sar_process
from test_cli import notebook

@pytest.fixture
def toys(tmp_path, monkeypatch):
    "Three notebooks in place of 02 to 10; the second fails while a file called `stop` is there."
    from sar_repro import cli
    paths = []
    for i, source in enumerate(["print('one')", "from pathlib import Path\nassert not Path('stop').exists()", "print(size, budget)"]):
        folder = tmp_path/str(i); folder.mkdir()
        paths.append(notebook(folder, "size = 'tiny'\nbudget = 'full'", source).rename(tmp_path/f'0{i + 2}_toy.ipynb'))
    monkeypatch.setattr(cli, 'pipeline', lambda: paths)
    monkeypatch.setattr(cli, 'home', lambda: tmp_path)
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

def test_everything_in_small(tmp_path):
    "The real notebooks 02 to 10 with the smoke budget; nothing of the repository is touched."
    before = {f: f.stat().st_mtime_ns for part in ('figures', 'results') for f in (ROOT/part).rglob('*') if f.is_file()}
    done = sar_process('run', '--all', '--budget', 'smoke', '--out', tmp_path/'all', timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r'9 notebooks run in [\d.]+ min, 0 were up to date', done.stdout), done.stdout
    assert len(list((tmp_path/'all').glob('[01]*.html'))) == 9
    assert before == {f: f.stat().st_mtime_ns for part in ('figures', 'results') for f in (ROOT/part).rglob('*') if f.is_file()}
