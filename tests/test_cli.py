"The `sar` command from outside: exit codes, messages, nothing written on refusal."
import ast, json, os, resource, subprocess, sys
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
    refused(sar('run', '70_train'), "'70_train'", 'did you mean 07_train?')
    refused(sar('run', 'x'), "'x'", '00_core', '90_cli')

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

@pytest.mark.parametrize('command', ['run', 'train', 'execute', 'sample', 'evaluate', 'new', 'diagnose', 'share', 'demo', 'bench', 'fetch', 'parity'])
def test_help(command):
    done = sar(command, '--help')
    assert done.returncode == 0 and 'Usage: sar ' + command in done.stdout and '--help' in done.stdout
    assert f'Examples:\n    sar {command}' in done.stdout # a line each, as it is typed
    assert command in (listed := sar('--help').stdout) and '...' not in listed.split('Commands:')[1]

MISTAKES = {
    ('trian',): 'did you mean train?',
    ('eval',): 'did you mean evaluate?',
    ('train', 'gone.pth'): 'no model at gone.pth: train one with',
    ('evalute',): 'did you mean evaluate?',
    ('07_train',): 'did you mean sar run 07_train?',
    ('frobnicate',): 'expected one of run, execute, sample',
    ('run', '07_trian'): 'did you mean 07_train?',
    ('run', '7', '-p', 'Size', 'mini'): '07_train has no parameter \'Size\': did you mean size? --help lists',
    ('run', '07', '-p', 'epocs', '3'): 'did you mean epochs?',
    ('run', '07', '-p', 'size', ''): 'parameter size of 07_train is empty text',
    ('sample', '--size', 'mni'): 'did you mean mini',
    ('new', 'nowhere'): 'no folder of pictures at nowhere',
    ('sample', '--classes', 'Boot'): "unknown class 'Boot' of size tiny",
    ('sample', '--size', 'mini', '--classes', 'Boot'): "of size mini: did you mean Ankle boot?",
    ('sample', '--sise', 'mini'): 'sample has no option --sise: did you mean --size',
    ('sample', '--n', 'x'): "sample: invalid value for '--n'",
    ('sample', '--size', 'mini', '--classes', 'Boott'): 'did you mean Ankle boot?',
    ('diagnose', '--size', 'smal'): 'mini, tiny, medium, small, d16, d20, d24; did you mean small?',
    ('fetch', 'd30'): 'expected one of d16, d20, d24, var-d16'}

@pytest.mark.parametrize('args,words', MISTAKES.items(), ids=lambda v: ' '.join(v) if isinstance(v, tuple) else '')
def test_a_mistake_is_answered_by_what_was_meant(args, words): refused(sar(*args), words)

def test_mistakes_in_what_is_typed_are_answered_before_pytorch_is_imported(tmp_path):
    done = python('-c', '''
import sys
from sar_repro.jobs.cli import main
for line in ("trian", "sample --sise mini", "evaluate --dataset emoji", "train {} --epochs 0", "train gone.pth", "run 07_trian", "run 07 -p epocs 3", "sample gone.pth", "evaluate --reference gone", "new nowhere", "diagnose --after gone", "share gone", "sample --edit gone --from-scale 2"):
    try: main(line.format(sys.argv[1]).split())
    except SystemExit as e: print(e.code, "torch" in sys.modules)
''', ROOT/'pretrained/mini/model.safetensors', cwd=tmp_path)
    assert done.stdout.split('\n')[:-1] == ['2 False'] * 13, done.stdout + done.stderr

def foreign(folder):
    "Files that others wrote, where commands are told to write."
    written = notebook(folder, 'x = 1')
    (folder/'photos/a').mkdir(parents=True)
    (folder/'full').mkdir()
    names = ['a.png', 'package.json', 'results.json', 'bench-mini.json', 'full/index.html', 'full/gap.csv']
    for name in names: (folder/name).write_text('{"name": "mine"}')
    return written

STAY = dict(sample=['sample', '--size', 'mini', '--out', 'a.png'], evaluate=['evaluate', '--out', 'package.json'], usual=['evaluate'],
    protocol=['evaluate', '--reference', 'photos', '--out', 'package.json'], bench=['bench', '--size', 'mini'], diagnose=['diagnose', '--out', 'full'],
    run=['run', '05', '--out', 'toy.ipynb'], all=['run', '--all', '--out', 'full'], execute=['execute', 'toy.ipynb'])

@pytest.mark.parametrize('args', STAY.values(), ids=STAY)
def test_no_file_of_others_is_replaced(tmp_path, args):
    foreign(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
    refused(sar(*args, cwd=tmp_path), '--force')
    assert {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()} == before

def test_force_replaces(tmp_path):
    toy = foreign(tmp_path)
    for args in (['run', toy, '--out', 'full/toy.ipynb'], ['run', toy, '--out', 'full/toy.ipynb'], ['execute', toy, '--force']):
        assert sar(*args, cwd=tmp_path).returncode == 0 # the second time it is an executed copy of ours
    written = notebook(tmp_path/'photos', 'y = 2')
    assert sar('run', toy, '--out', written, '--force', cwd=tmp_path).returncode == 0 and 'x = 1' in written.read_text()
    assert sar('sample', '--size', 'mini', '--n', '1', '--classes', '0', '--out', 'a.png', '--force', cwd=tmp_path).returncode == 0
    assert (tmp_path/'a.png').read_bytes()[1:4] == b'PNG'
    assert sar('sample', '--size', 'mini', '--n', '1', '--classes', '0', '--out', 'a.png', cwd=tmp_path).returncode == 0

def test_a_failed_copy_is_called_so_and_no_other_is_left(tmp_path):
    path = notebook(tmp_path, 'x = 1', 'assert x, "why"')
    out = tmp_path/'out'
    done = sar('run', path, '-p', 'x', '0', '--out', out/'ran.ipynb')
    assert done.returncode == 1 and 'why' in done.stderr and 'ran.failed.ipynb' in done.stderr
    assert [p.name for p in out.iterdir()] == ['ran.failed.ipynb'] and 'AssertionError' in (out/'ran.failed.ipynb').read_text()
    assert sar('run', path, '--out', out/'ran.ipynb').returncode == 0
    assert [p.name for p in out.iterdir()] == ['ran.ipynb']

def test_the_kernel_is_the_python_that_runs_sar(tmp_path, monkeypatch):
    path, kernels = notebook(tmp_path, 'import sys; x = sys.executable; x'), tmp_path/'share/kernels/python3'
    kernels.mkdir(parents=True)
    (kernels/'kernel.json').write_text(json.dumps(dict(argv=['/gone/python', '-m', 'ipykernel_launcher', '-f', '{connection_file}'], display_name='P', language='python')))
    monkeypatch.setenv('JUPYTER_PATH', str(tmp_path/'share'))
    done = sar('run', path, '--out', tmp_path/'ran.ipynb')
    assert done.returncode == 0 and sys.executable in (tmp_path/'ran.ipynb').read_text(), done.stderr

def test_notebooks_of_others_run_or_are_refused(tmp_path):
    path = notebook(tmp_path, 'x = 1')
    whole = json.loads(path.read_text())
    def written(**changes):
        path.write_text(json.dumps(whole | changes))
        return sar('run', path, '--out', tmp_path/'ran.ipynb')
    for meta in ({}, dict(kernelspec=dict(name='my-env', display_name='mine', language='python'))): assert written(metadata=meta).returncode == 0
    (tmp_path/'ran.ipynb').unlink()
    refused(written(metadata=dict(kernelspec=dict(name='ir', display_name='R', language='R'))), 'is written in R')
    for broken in (dict(nbformat=None), dict(metadata=None), dict(cells=[dict(cell_type='code', source='x = 1')])): refused(written(**broken), 'no whole notebook')
    assert not (tmp_path/'ran.ipynb').exists()

def test_a_kernel_that_does_not_start_is_named(tmp_path, monkeypatch):
    from sar_repro.jobs import notebooks
    broken = notebooks._own_kernel()
    broken['kernel_manager_class'].kernel_spec.argv = ['false']
    monkeypatch.setattr(notebooks, '_own_kernel', lambda: broken)
    done = sar('run', notebook(tmp_path, 'x = 1'), '--out', tmp_path/'out/ran.ipynb')
    assert done.returncode == 2 and 'sar: no kernel starts for toy.ipynb' in done.stderr and 'Traceback' not in done.stderr, done.stderr
    assert not list((tmp_path/'out').iterdir())

def test_work_goes_on_without_a_terminal(tmp_path):
    code = 'from sar_repro.jobs.cli import main; main()'
    args = ['sample', '--size', 'mini', '--n', '1', '--classes', '0']
    done = subprocess.run(['sh', '-c', '"$@" 2>&- >&- <&-', 'sh', sys.executable, '-c', code, *args], cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.returncode == 0 and (tmp_path/'samples.png').read_bytes()[1:4] == b'PNG'

def test_help_is_quick(): # in seconds of a processor: others may be busy on it
    spent = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    before = spent()
    assert sar_process('--help').returncode == 0
    assert spent() - before < 1.2, f'sar --help took {spent() - before:.1f} s: an import at module level is heavy'

def test_unknown_size():
    refused(sar('sample', '--size', 'huge'), "unknown size 'huge'", 'tiny')

DRAW = '''
from sar_repro.jobs.cli import main
try: main(['sample', '--n', '1', '--classes', '0'])
except SystemExit as e: assert not e.code
from sar_repro.engine.core import ROOT, WORK
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
    from sar_repro.jobs.notebooks import read_parameters
    theirs = {k: ast.literal_eval(v['default']) for k, v in inspect_notebook(path).items()}
    ours = read_parameters(path)
    assert theirs == {k: v.default for k, v in ours.items()}
    typed = {k: v for k, v in inspect_notebook(path).items() if v["inferred_type_name"] != "None"}
    assert all(ours[k].kind.__name__ == v["inferred_type_name"] and ours[k].note == v["help"].strip() for k, v in typed.items())
    assert not caplog.records, [r.getMessage() for r in caplog.records]

@pytest.mark.parametrize('size', ['mini', 'hybrid-mini', 'var-mini'])
def test_steps_and_samples_of_every_base_are_timed(size, monkeypatch):
    from sar_repro.jobs import speed
    monkeypatch.setattr(speed, 'matmul_rate', lambda *_, **__: 1e12) # seconds, where there is nothing to compare
    record = speed.bench(size, 'cpu', 2, reps=1, memory=False)
    assert {'tf', 'sar', 'sar, guided'} <= set(record['steps']) and record['sampling']['seconds'] > 0

def test_every_size_has_a_usual_batch():
    from sar_repro.engine.core import SIZES, VARIANTS
    from sar_repro.jobs.speed import BATCH
    assert {s.split('-')[-1] for s in [*SIZES, *VARIANTS]} == set(BATCH)
