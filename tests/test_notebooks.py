"nbdev_test over every notebook. It skips some in silence (leading underscore, skip_exec, .notest); here that is a failure."
import json, os, re, subprocess, sys
from pathlib import Path
import pytest
from conftest import NOTEBOOKS, ROOT

@pytest.fixture(scope='module')
def outcome():
    "Run nbdev_test; returns its status, the notebooks that were run to their end, and what it said."
    command = [Path(sys.executable).parent/'nbdev_test', '--do_print', '--n_workers', '1']
    ran = subprocess.run(command, cwd=ROOT, env={**os.environ, 'MPLBACKEND': 'Agg'}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return ran.returncode, set(re.findall(r'- Completed .*?([^/\n]+)\.ipynb', ran.stdout)), ran.stdout

def failures(text): return set(re.findall(r'^\t(\S+)\.ipynb$', text.partition('Failed On The Following')[2], flags=re.M))

def excerpt(text, stem): # what nbdev_test says about one notebook
    m = re.search(rf'^\w+ in \S*/{stem}\.ipynb:$', text, flags=re.M)
    return text[m.start():m.start() + 4000] if m else text[-3000:]

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, outcome):
    code, ran, text = outcome
    if path.stem not in ran: pytest.fail(f'nbdev_test did not run {path.name}: no leading underscore, skip_exec or .notest, please', pytrace=False)
    if path.stem in failures(text): pytest.fail(excerpt(text, path.stem), pytrace=False)

def test_nbdev_test_ends_well(outcome):
    if outcome[0]: pytest.fail(f'nbdev_test ended with {outcome[0]}\n{outcome[2][-1500:]}', pytrace=False)

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_cells_are_not_all_skipped(path):
    "At least half of a notebook's code cells run under nbdev_test."
    sources = [''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
    skipped = [s for s in sources if re.search(r'^#\s*\|\s*(slow|eval:\s*false)', s, flags=re.M)]
    assert len(skipped) <= len(sources)/2, f'{path.name}: {len(skipped)} of {len(sources)} code cells never run in tests'

def test_every_numbered_notebook_is_there():
    "A module without its notebook, or a notebook without its module, was renamed by halves."
    exported = {m[1].replace('.', '/') + '.py' for p in NOTEBOOKS for m in [re.search(r'default_exp (\S+?)(?:\\n)?"', p.read_text(encoding='utf-8'))] if m}
    root = ROOT/'sar_repro'
    modules = {str(p.relative_to(root)) for p in root.rglob('*.py') if p.stem != '_modidx' and p.stat().st_size}
    assert exported == modules
