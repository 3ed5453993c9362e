"nbdev_clean, nbdev_export and the README leave no diff. All is done on a copy: the tree is never altered."
import shutil
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
