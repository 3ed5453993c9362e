"The `sar` command from outside: exit codes, messages, nothing written on refusal."
import ast, json, resource
import pytest
from conftest import NOTEBOOKS, ROOT, python, sar, sar_process

def notebook(folder, *sources, tags=('parameters',)):
    "Write a notebook of code cells, the first of them tagged."
    cells = [dict(cell_type='code', execution_count=None, id=f'c{i}', metadata={'tags': list(tags)} if not i else {}, outputs=[], source=s)
             for i, s in enumerate(sources)]
    spec = dict(display_name='python3', language='python', name='python3')
    path = folder/'toy.ipynb'
    path.write_text(json.dumps(dict(cells=cells, metadata=dict(kernelspec=spec), nbformat=4, nbformat_minor=5)))
    return path

def refused(done, *words):
    assert done.returncode == 2, done.stderr
    assert done.stderr.count('\n') == 1 and 'Traceback' not in done.stderr, done.stderr
    for word in words: assert word in done.stderr, done.stderr

def test_unknown_parameter_lists_the_accepted(tmp_path):
    refused(sar('run', notebook(tmp_path, "size = 'tiny'\nepochs = 10"), '-p', 'epoch', '2', cwd=tmp_path), "'epoch'", "size='tiny'", 'epochs=10')
    assert [p.name for p in tmp_path.iterdir()] == ['toy.ipynb']

def test_wrong_type(tmp_path):
    refused(sar('run', notebook(tmp_path, 'epochs = 10'), '-p', 'epochs', 'ten', cwd=tmp_path), 'epochs', 'int', "'ten'")

def test_unknown_notebook():
    refused(sar('run', '70_train'), "'70_train'", '00_core', '90_cli')

def test_notebook_without_parameters(tmp_path):
    plain = notebook(tmp_path, 'x = 1', tags=())
    refused(sar('run', plain, '-p', 'x', '2'), '`parameters`')
    assert sar('run', plain).returncode == 0 # nothing to set, so nothing is missing

def test_cut_notebook(tmp_path):
    path = notebook(tmp_path, 'x = 1')
    path.write_text(path.read_text()[:50])
    refused(sar('run', path), 'cut short')

def test_output_in_nbs_is_refused(tmp_path):
    refused(sar('run', notebook(tmp_path, 'x = 1'), '--out', ROOT/'nbs'/'99_copy.ipynb'), 'nbs/')
    assert not (ROOT/'nbs'/'99_copy.ipynb').exists()

def test_missing_cwd(tmp_path):
    refused(sar('run', notebook(tmp_path, 'x = 1'), '--cwd', tmp_path/'nowhere'), '--cwd')

def test_run_passes_parameters_and_standard_error(tmp_path):
    path = notebook(tmp_path, "epochs = 10\nbudget = 'full'", "import sys; print('bar', epochs, file=sys.stderr); print(budget, epochs + 1)")
    done = sar('run', path, '-p', 'epochs', '2', '--budget', 'smoke', '--out', tmp_path/'out'/'ran.ipynb', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'bar 2' in done.stderr and '3/3' in done.stderr and 'out/ran.ipynb' in done.stdout
    outputs = [o for c in json.loads((tmp_path/'out'/'ran.ipynb').read_text())['cells'] for o in c['outputs']]
    assert [''.join(o['text']) for o in outputs] == ['smoke 3\n'] # standard error is not kept

def test_sar_error_in_a_cell_is_one_sentence(tmp_path):
    path = notebook(tmp_path, 'x = 1', "class SarError(Exception): pass\nraise SarError('unknown size huge')")
    done = sar('run', path, '--out', tmp_path/'ran.ipynb')
    assert done.returncode == 1 and done.stderr.rstrip().endswith('\nunknown size huge') and 'Traceback' not in done.stderr

def test_other_error_names_its_cell(tmp_path):
    done = sar('run', notebook(tmp_path, 'x = 1', '1/0'), '--out', tmp_path/'ran.ipynb')
    assert done.returncode == 1 and 'ZeroDivisionError' in done.stderr and 'of toy' in done.stderr

@pytest.mark.parametrize('command', ['run', 'execute', 'sample', 'evaluate', 'diagnose', 'fetch', 'parity'])
def test_help(command):
    done = sar(command, '--help')
    assert done.returncode == 0 and 'Usage: sar ' + command in done.stdout and '--help' in done.stdout

def test_help_is_quick(): # in seconds of a processor: others may be busy on it
    spent = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    before = spent()
    assert sar_process('--help').returncode == 0
    assert spent() - before < 1.2, f'sar --help took {spent() - before:.1f} s: an import at module level is heavy'

def test_unknown_size():
    refused(sar('sample', '--size', 'huge'), "unknown size 'huge'", 'tiny')

DRAW = '''
from sar_repro.cli import main
try: main(['sample', '--n', '1', '--classes', '0'])
except SystemExit as e: assert not e.code
from sar_repro.core import ROOT, WORK
print(ROOT.name, WORK)
'''

def test_an_installed_copy_brings_what_it_needs_and_writes_beside_the_caller(tmp_path):
    assert not python('setup.py', '-q', 'build', '-b', tmp_path/'build').returncode
    package, here = tmp_path/'build/lib/sar_repro', tmp_path/'here'
    here.mkdir()
    size = sum(p.stat().st_size for p in package.rglob('*') if p.is_file())
    assert size < 41e6, f'{size/1e6:.1f} MB: a wheel of it passes 40 MB'
    before = sorted(package.rglob('*'))
    env = dict(cwd=here, env=dict(PYTHONPATH=str(package.parent), PYTHONDONTWRITEBYTECODE='1', SAR_WORK=''))
    drawn = python('-c', DRAW, **env)
    helped = sar_process('run', '07', '--help', **env)
    for done in (drawn, helped): assert not done.returncode, done.stderr
    places = drawn.stdout.splitlines()[-1].split()
    assert places == ['_shipped', str(here)] and (here/'samples.png').is_file()
    assert sorted(package.rglob('*')) == before, 'something was written into the package'

WITH_PARAMETERS = [p for p in NOTEBOOKS if '"parameters"' in p.read_text(encoding='utf-8')]

@pytest.mark.parametrize('path', WITH_PARAMETERS, ids=lambda p: p.stem)
def test_papermill_reads_the_same_parameters(path, caplog):
    "The cell is parsed line by line there: a value over two lines, or a comment with a sign of its own, would go astray."
    from papermill.inspection import inspect_notebook
    from sar_repro.cli import read_parameters
    theirs = {k: ast.literal_eval(v['default']) for k, v in inspect_notebook(path).items()}
    assert theirs == read_parameters(path)
    assert not caplog.records, [r.getMessage() for r in caplog.records]

@pytest.mark.parametrize('size', ['mini', 'hybrid-mini', 'var-mini'])
def test_steps_and_samples_of_every_base_are_timed(size, monkeypatch):
    from sar_repro.engine import speed
    monkeypatch.setattr(speed, 'matmul_rate', lambda *_, **__: 1e12) # seconds, where there is nothing to compare
    record = speed.bench(size, 'cpu', 2, reps=1, memory=False)
    assert {'tf', 'sar', 'sar, guided'} <= set(record['steps']) and record['sampling']['seconds'] > 0

def test_every_size_has_a_usual_batch():
    from sar_repro.core import SIZES, VARIANTS
    from sar_repro.engine.speed import BATCH
    assert {s.split('-')[-1] for s in [*SIZES, *VARIANTS]} == set(BATCH)
