"What notebooks cannot show: lazy imports, no traces of a machine, outputs that are there, sizes."
import json, re, subprocess
import pytest
from conftest import NOTEBOOKS, ROOT, python

MODULES = sorted('.'.join(p.relative_to(ROOT/'sar_repro').with_suffix('').parts) for p in (ROOT/'sar_repro').rglob('*.py') if not p.stem.startswith('_'))
BLOCK = """
import importlib, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('papermill', 'nbdev', 'torch_fidelity', 'nbclient', 'nbconvert', 'execnb'): raise ImportError(f'{name} is blocked')
sys.meta_path.insert(0, Block())
for module in sys.argv[1:]: importlib.import_module(f'sar_repro.{module}')
"""

def tracked():
    "Files that are in git or would be added."
    done = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard', '-z'], cwd=ROOT, capture_output=True, text=True)
    if done.returncode: pytest.skip('not a git checkout')
    return [ROOT/f for f in done.stdout.split('\0') if f and (ROOT/f).is_file()]

def test_imports_need_no_notebook_tools():
    done = python('-c', BLOCK, *MODULES)
    assert done.returncode == 0, done.stderr[-2000:]

def test_no_machine_paths():
    "Absolute paths of somebody's machine have no place in text or outputs."
    pattern = re.compile(r'(?<![\w.~}\])])/(?:home|work|root|tmp|Users)/\w')
    bad = [f'{f.relative_to(ROOT)}:{i}' for f in tracked() if f.suffix in ('.ipynb', '.md', '.py')
           for i, line in enumerate(f.read_text(encoding='utf-8').splitlines(), 1) if pattern.search(line)]
    assert not bad, f'absolute paths in {bad}'

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_executed(path):
    "Outputs are committed: some, without errors, warnings or bulk."
    outputs = [o for c in json.loads(path.read_text(encoding='utf-8'))['cells'] for o in c.get('outputs', [])]
    mend = f'run `make notebooks NB={path.stem}`'
    assert outputs, f'{path.name} has no outputs: {mend}'
    assert not [o for o in outputs if o['output_type'] == 'error'], f'{path.name} holds an error: {mend}'
    assert not [o for o in outputs if o.get('name') == 'stderr'], f'{path.name} holds standard error: {mend}'
    size = len(json.dumps(outputs))
    assert size < 600_000, f'{path.name} holds {size/1e3:.0f} kB of outputs: put big grids into figures/'

def test_sizes():
    sizes = {f: f.stat().st_size/1e6 for f in tracked()}
    big = [f'{f.relative_to(ROOT)} {s:.0f} MB' for f, s in sizes.items() if s > 25]
    assert not big, f'above 25 MB: {big}'
    assert sum(sizes.values()) < 60, f'the repository has {sum(sizes.values()):.0f} MB'

def test_links_in_readme_lead_somewhere():
    readme = ROOT/'README.md'
    assert readme.exists(), 'README.md is missing: run `make readme`'
    links = re.findall(r'(?:\]\(|(?:src|href)=")(?![a-z]+:|#)([^)"\s#]+)', readme.read_text(encoding='utf-8'))
    missing = [l for l in links if not (ROOT/l).exists()]
    assert not missing, f'README.md links to {missing}'
