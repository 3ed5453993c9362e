"nbdev_clean, nbdev_export and the README leave no diff. All is done on a copy: the tree is never altered."
import json, re, shutil
from collections import defaultdict
import pytest
from conftest import ROOT, python

def contents(root):
    "Every compared file's bytes, by relative path."
    files = [*root.glob('nbs/*.ipynb'), *(root/'sar_repro').rglob('*.py'), root/'README.md', root/'pyproject.toml']
    return {str(f.relative_to(root)): f.read_bytes() for f in files if f.exists()}

@pytest.fixture
def copy(tmp_path):
    for name in ('nbs', 'sar_repro', 'tools'):
        shutil.copytree(ROOT/name, tmp_path/name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    for name in ('settings.ini', 'setup.py', 'pyproject.toml', 'README.md'):
        if (ROOT/name).exists(): shutil.copy(ROOT/name, tmp_path/name)
    return tmp_path

@pytest.mark.parametrize('what,command,mend', [
    ('nbdev_clean', ['-c', 'from nbdev.clean import nbdev_clean; nbdev_clean()'], '.venv/bin/nbdev_clean'),
    ('nbdev_export', ['-c', 'from nbdev.doclinks import nbdev_export; nbdev_export()'], '.venv/bin/nbdev_export'),
    ('README', ['tools/readme.py'], 'make readme')], ids=['clean', 'export', 'readme'])
def test_no_diff(copy, what, command, mend):
    before = contents(copy)
    done = python(*command, cwd=copy, env=dict(PYTHONPATH=str(copy)))
    assert done.returncode == 0, done.stderr[-3000:]
    after = contents(copy)
    changed = sorted(f for f in before.keys() | after.keys() if before.get(f) != after.get(f))
    assert not changed, f"{what} changes {', '.join(changed)}: run `{mend}` and look at the result"

def exporters(folder):
    "Module -> the notebooks that say they make it."
    found = defaultdict(list)
    for path in sorted(folder.rglob('*.ipynb')):
        if any(part.startswith(('.', '_')) for part in path.relative_to(folder).parts): continue # nbdev, too, leaves them alone
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        for module in re.findall(r'^#\|\s*default_exp\s+(\S+)', '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'code'), re.M): found[module].append(path.name)
    return found

def test_a_module_is_made_from_one_notebook(tmp_path):
    made = exporters(ROOT/'nbs')
    twice = {module: names for module, names in made.items() if len(names) > 1}
    assert len(made) > 30 and not twice, f'nbdev_export takes the last of several notebooks for one module: move the copies out of nbs/: {twice}'
    for name in ('07_train.ipynb', '07_train-Copy1.ipynb'): shutil.copy(ROOT/'nbs/07_train.ipynb', tmp_path/name) # as JupyterLab names a copy
    assert [len(names) for names in exporters(tmp_path).values()] == [2]
