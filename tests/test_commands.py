"""Every command line that is printed somewhere is run here, in a small form: those of README and the other pages, of
notebooks (fenced, or in `code`), of docstrings and messages, of `--help` and `make help`.

`ROWS` says how each kind is run. A line that no row fits is a failure, and so is a row that no line needs."""
import ast, json, re, shlex
from functools import cache
from pathlib import Path

import pytest
from conftest import NOTEBOOKS, ROOT, Forks, python, sar

PAGES = 'README.md', 'FIRST_HOUR.md', 'CHANGELOG.md', 'data/README.md'
PROGRAM = re.compile(r'[%!]?(?:\.venv/bin/)?((?:sar|papermill|make|accelerate|torchrun|pip|git|jupyter) \S.*|python3? (?:-m |\w+/)\S.*)')
FENCE = re.compile(r'^(~~~|```)(\w*)\n(.*?)^\1', re.S | re.M)

def plain(line): # without a comment, and each of several commands by itself
    return [part.strip() for part in re.sub(r'\s#\s.*$|\s{2,}\S.*$' if not line.startswith('    ') else r'\s+#\s.*$', '', re.sub(r'[ \t]+#\s.*$', '', line).strip()).split(' && ')]

def commands(text):
    "Command lines of a text: lines of its fences, and what stands in backticks."
    found = []
    for _, language, body in FENCE.findall(text):
        found += [part for line in re.sub(r'\\\n\s*', '', body).splitlines() for part in plain(line)]
    found += re.findall(r'(?<!`)`([^`\n]+)`', FENCE.sub('', text))
    return [m[1] for m in map(PROGRAM.fullmatch, found) if m]

def strings(source):
    "Texts in Python code, what is filled in as {name}, neighbours joined."
    for node in ast.walk(ast.parse(re.sub(r'^\s*[%!].*$', 'pass', source, flags=re.M))):
        if isinstance(node, ast.JoinedStr):
            yield ''.join(v.value if isinstance(v, ast.Constant) else '{%s}' % ast.unparse(v.value) for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str): yield node.value

BARE = re.compile(r'^(?:.*: )?((?:sar (?:run|train|sample|new|evaluate|diagnose|share|demo|fetch)|accelerate launch|torchrun|python -m|python tools/\w+\.py) [^`]*?)(?: writes them)?$')

def printed():
    "(where, command line) of everything that is printed."
    for page in PAGES: yield from ((page, c) for c in commands((ROOT/page).read_text(encoding='utf-8')))
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
            source = ''.join(cell['source'])
            if cell['cell_type'] == 'markdown': yield from ((path.stem, c) for c in commands(source))
            elif cell['cell_type'] == 'code':
                for text in strings(source):
                    yield from ((path.stem, c) for c in commands(text))
                    yield from ((path.stem, m[1]) for m in map(BARE.match, map(str.strip, text.splitlines())) if m)
    for path in (ROOT/'tools').glob('*.py'):
        for text in strings(path.read_text(encoding='utf-8')): yield from ((path.name, m[1]) for m in map(BARE.match, map(str.strip, text.splitlines())) if m)
    yield from (('make help', re.split(r'\s{2,}', line.strip())[0]) for line in re.findall(r'@echo "(make .*?)"', (ROOT/'Makefile').read_text(encoding='utf-8')))

def whole(command): # not a piece of one, cut within quotes, that a test looks for
    try: return shlex.split(command)
    except ValueError: return []

def examples():
    "What `--help` shows, of every command."
    import typer
    from sar_repro.jobs import cli
    for name, command in typer.main.get_command(cli.app).commands.items(): yield from ((f'sar {name} --help', line.strip()) for line in (command.epilog or '').splitlines() if line.startswith('  '))
    from sar_repro.jobs.notebooks import described, read_parameters
    yield from ((f'sar run {path.stem} --help', described(path).splitlines()[-1].strip()) for path in NOTEBOOKS if read_parameters(path, needed=False))

PRINTED = sorted({command for _, command in [*printed(), *examples()] if whole(command)})
SETUP = '''
import io, os, shlex, shutil, sys
from pathlib import Path
os.environ |= dict(MPLBACKEND='Agg', HF_HUB_OFFLINE='1', SAR_BARS='text', SAR_PRECISION='fp32')
import torch, typer, numpy as np
from IPython.core.interactiveshell import InteractiveShell
from sar_repro import data
from sar_repro.jobs import cli, notebooks
from sar_repro.engine.core import SIZES, SarError
from sar_repro.jobs import diagnostics, findings, own, parity, published, speed
import accelerate.commands.accelerate_cli
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser
data.load_dataset.__defaults__ = (*data.load_dataset.__defaults__[:-1], 60) # pictures of each split
speed.bench.__defaults__, speed.matmul_rate.__defaults__ = ('mini', None, 2, 1, False), (None, 256, None, 3) # one round, no processes for memory
for budget in own.STEPS: own.STEPS[budget] = 2, 2, 1 # of `sar new`

def cells_of(source, out, values, cwd, what=None):
    "In place of a kernel: the cells that hold what the parameters decide; `test_notebooks` runs all of them."
    copy = json.loads(source.read_text(encoding='utf-8'))
    copy['metadata']['papermill'] = {} # it was executed
    if out: out.write_text(json.dumps(copy))
    cells = [c for c in notebooks.cells_of(source) if c['cell_type'] == 'code']
    texts = [''.join(c['source']) for c in cells if 'parameters' in c.get('metadata', {}).get('tags', [])] + [f'{k} = {v!r}' for k, v in values.items()]
    stem = Path(source).stem
    if stem in ('02_tokenizer', '07_train'): # its imports, and what belongs to the job
        rest = [''.join(c['source']) for c in cells]
        texts += [t for t in rest if t.startswith(('#| export', '#| default_exp'))] + [t for t in rest if t.startswith('#| hide\\nimport')][:1]
        texts += [t for t in rest if '_tokenizer(own' in t] if stem == '02_tokenizer' else [t for t in rest if ('job' in t or 'def live(' in t) and 'toy' not in t and not t.startswith('#|')]
        if values.get('size') in published.PUBLISHED: texts = [t for t in texts if 'load_job(job)' not in t][:next(i for i, t in enumerate(texts) if 'banner' in t) + 1] # what it is, and lacks
    shell = InteractiveShell.instance()
    for text in texts:
        error = shell.run_cell(text, silent=True).error_in_exec
        if isinstance(error, SarError): typer.echo(f'sar: {error}', err=True); raise typer.Exit(2)
        if error: raise error
notebooks.execute_copy = cells_of
diagnostics.diagnose = lambda *args, **how: [] # 11 measures; here its checks, weights and pictures are loaded

def pictures(folder):
    from PIL import Image
    rng = np.random.default_rng(0)
    for i in range(66):
        place = Path(folder)/f'photos/{i%2}'; place.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)); image.save(place/f'{i}.png')
        ten = Path(folder)/f'ten/{i%10}'; ten.mkdir(parents=True, exist_ok=True); image.save(ten/f'{i}.png') # of as many classes as the model
    for name in ('picture', 'mask', 'hole'): Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(Path(folder)/f'{name}.png')
    np.savez(Path(folder)/'samples.npz', arr_0=rng.integers(0, 256, (20, 16, 16, 3), dtype=np.uint8))
    loss = next(c for c in notebooks.cells_of(notebooks.find_notebook('10_strategies')) if ''.join(c['source']).startswith('LOSS = '))
    (Path(folder)/'unsure.py').write_text(''.join(loss['source']).split('"""')[1])
    for name, size in (('mini-fashion16-sar-s0', 'mini'), ('new-photos/sar', 'mini')):
        place = Path(folder)/'runs'/name; place.mkdir(parents=True)
        for kind in ('model', 'tokenizer'): shutil.copy(cli.home()/f'pretrained/{size}/{kind}.safetensors', place/f'{kind}.safetensors')
'''
forks = Forks(SETUP, CUDA_VISIBLE_DEVICES='')

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "A folder with pictures and weights, in which the commands run."
    folder = tmp_path_factory.mktemp('commands')
    done = forks('pictures(sys.argv[1])', folder)
    assert not done.returncode, done.stderr
    return folder

RUN = "os.chdir(sys.argv[1]); os.environ['SAR_WORK'] = sys.argv[1]; sys.argv[0] = 'sar'; cli.main(sys.argv[2:])"

@cache
def small(place, words): # of `sar`; a fork that has the libraries
    return forks(RUN, place, *words)

def run_sar(place, words, offline=False):
    done = small(place, tuple(words))
    if offline: assert done.returncode in (1, 2) and 'sar: ' in done.stderr, (words, done)
    else: assert done.returncode == 0, (words, done.returncode, done.stderr[-1500:])
    assert 'Traceback' not in done.stderr, (words, done.stderr[-1500:])

WEIGHTS = 'runs/mini-fashion16-sar-s0/model.safetensors'
FILL = {'{size}': 'mini', 'pretrained/mini/model.safetensors': WEIGHTS, 'pretrained/mini/sar.safetensors': WEIGHTS, 'FOLDER': 'photos', 'CHECKPOINT': WEIGHTS, 'CKPT': WEIGHTS, 'RUN': 'runs/mini-fashion16-sar-s0', '{weights}': WEIGHTS, '{place}': 'runs/mini-fashion16-sar-s0/tokenizer.safetensors',
        '$RANK': '0', '$HEAD': '127.0.0.1', 'VALUE': 'smoke', 'FILE...': str(ROOT/'data/golden/losses_small.safetensors'), '../photos300': 'photos', '{path.stem}': '07_train', '{words[0]}': 'sample'}

def words_of(command):
    "Words of a printed command line, blanks filled in."
    command = command.replace('{how}', '-p size mini -p dataset photos -p init scratch -p method tf').replace('sar run NAME', 'sar run 07_train').replace('dataset NAME', 'dataset photos')
    command = re.sub(r'\[([^]]*)\]', r'\1', command) if command.startswith('make') else command
    words = shlex.split(command)
    return [FILL.get(w, w) for w in words]

def put(words, **options): # values after their names, in place of those that stand there
    words = list(words)
    for name, value in options.items():
        name = f'--{name}'
        if name in words: words[words.index(name) + 1] = value
        else: words += [name, value]
    return words

def bare(place, words): run_sar(place, [*[w for w in words[1:] if w != '--reference'], '--help']) # a name in a sentence: there is such a command

def as_it_is(place, words): run_sar(place, words[1:])
def offline(place, words): run_sar(place, words[1:], offline=True)                    # needs a network or weights: a sentence
def sample(place, words): run_sar(place, put(words[1:], n='1') if '--classes' in words else put(words[1:], n='1', classes='0'))
def edit(place, words): sample(place, words)
def new(place, words): run_sar(place, ['new', 'photos', '--size', 'mini', '--budget', 'smoke', '--out', 'runs/made'])
def evaluate(place, words): run_sar(place, put(words[1:], n='10', size='mini') if len(words) < 4 or words[2] == '--n' else put(words[1:], n='10'))
def diagnose(place, words): run_sar(place, put(words[1:], n='20', size='mini', out='diagnosis') if '--dataset' not in words else put(words[1:], n='20', out='diagnosis-own'))
def shared(place, words): run_sar(place, put(words[1:], out='runs/shared'))
def page(place, words): # where Gradio is missing: a sentence; `test_share` clicks
    done = forks("sys.modules['gradio'] = None; from sar_repro.jobs import share; share.find_spec = lambda name: None; " + RUN, place, *words[1:])
    assert done.returncode == 2 and 'sar_repro[demo]' in done.stderr, done
def bench(place, words): run_sar(place, ['bench', '--size', 'mini', '--batch', '2'])
def execute(place, words): # the notebooks of nbs/ stay as they are
    done = forks('from sar_repro.jobs import cli; cli.execute_in_place = print; ' + RUN, place, *words[1:])
    assert done.returncode == 0 and words[2] in done.stdout, done.stderr
def parity(place, words): run_sar(place, ['parity', *([str(ROOT/w) for w in words[2:]] or [FILL['FILE...']])])
def job(place, words): run_sar(place, [*words[1:], '-p', 'budget', 'smoke', *([] if 'size' in words else ['-p', 'size', 'mini'])])
def train(place, words): run_sar(place, put(['ten' if w == 'photos' else w for w in words[1:]], budget='smoke'))
def lacking(place, words): run_sar(place, [*words[1:], '-p', 'budget', 'smoke'], offline=True) # weights that do not ship
def tokenizer(place, words): run_sar(place, [*(w if w != 'tiny' else 'mini' for w in words[1:]), '-p', 'budget', 'smoke'])

def everything(place, words): # the launcher of all; `test_all` runs real notebooks through it
    run = "from sar_repro.jobs import cli, notebooks; notebooks.as_html = lambda a, b: b.write_text(''); notebooks.execute_copy = lambda *given: None; " + RUN
    done = forks(run, place, *words[1:], '--budget', 'smoke', '--out', 'everything')
    assert done.returncode == 0 and 'notebooks run' in done.stdout, done.stderr[-1500:]

def papermill(place, words): # its own command line prepares the copy; `sar run` takes the same names
    code = "os.chdir(sys.argv[1]); from papermill.__main__ import papermill; papermill(sys.argv[2:])"
    done = forks(code, place, str(ROOT/words[1]), *words[2:], '--prepare-only')
    assert done.returncode == 0, done.stderr[-1500:]
    job(place, ['sar', 'run', Path(words[1]).stem, *words[3:]])

def launcher(place, words): # its own parser reads the line; what it would start is run
    parse = 'launch_command_parser()' if words[0] == 'accelerate' else 'get_args_parser()'
    given = words[2:] if words[0] == 'accelerate' else words[1:]
    given = given if '-m' in given else [*given, '-m', 'sar_repro', '--version']
    done = forks(f"a = {parse}.parse_args(sys.argv[1:]); assert a.module and a.training_script == 'sar_repro'; print(shlex.join(a.training_script_args))", *given)
    assert done.returncode == 0, done.stderr
    rest = shlex.split(done.stdout)
    dict(run=job, train=train).get(rest[0], as_it_is)(place, ['sar', *rest])

def config(place, words): # `accelerate config` asks questions
    done = forks("accelerate.commands.accelerate_cli.main()", *words[1:], '--help')
    assert done.returncode == 0, done.stderr

def module(place, words):
    path = ROOT/words[2].replace('.', '/')
    path = path/'__main__.py' if path.is_dir() else path.with_suffix('.py')
    assert 'if __name__ == "__main__"' in path.read_text(encoding='utf-8'), f'{words[2]} does nothing'
    if words[2] in ('sar_repro', 'sar_repro.jobs.cli'):
        done = python('-m', words[2], '--help')
        assert done.returncode == 0 and 'Usage: sar' in done.stdout, done.stderr

def make(place, words): # dry: what it would call is there, and what it would call of `sar` is run
    import subprocess
    done = subprocess.run(['make', '-n', '-C', str(ROOT), *words[1:]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        if '/sar run' in line: job(place, ['sar', *shlex.split(line.split('/sar ')[1])])
        elif '/sar execute' in line: assert sar('execute', '--help').returncode == 0
        elif m := re.match(r'\.venv/bin/python (?:-m (\w+)|(\S+))', line): assert m[1] in ('pytest', 'venv', 'pip') or m[2] == '-c' or (ROOT/m[2]).is_file(), line

def parsed_by_pip(place, words):
    done = forks("from pip._internal.commands import create_command; create_command(sys.argv[1]).parse_args(sys.argv[2:])", *[w for w in words[1:] if w != '...'])
    assert done.returncode == 0, done.stderr

def git(place, words):
    import subprocess
    assert subprocess.run(['git', words[1], '-h'], capture_output=True, text=True).stdout.startswith('usage'), words

def script(place, words): # of tools/; `test_gpu` runs what can be run
    done = python('-m', 'py_compile', words[1])
    assert done.returncode == 0 and (ROOT/words[1]).is_file()

ROWS = [
    (r'sar (run|train|sample|new|execute|fetch|--help|--version|\{.*\}|run \{.*\}|evaluate --reference)', bare),
    (r'sar evaluate', evaluate), (r'sar diagnose', diagnose), (r'sar bench.*', bench), (r'sar execute .*', execute), (r'sar parity', parity),
    (r'sar run --all.*', everything),
    (r'sar run \S+ --help', as_it_is),
    (r'sar run 02\w* .*', tokenizer),
    (r'sar run 07_train .*-p base var .*', lacking),
    (r'sar run 07_train.*', job),
    (r'sar train .*', train),
    (r'sar run \S+ -p .*', as_it_is),
    (r'sar sample --size var-d16', offline),
    (r'sar evaluate (--size var-d16|pretrained/).*', offline),
    (r'sar fetch .*', offline),
    (r'sar sample .*--edit.*', edit),
    (r'sar sample .*', sample),
    (r'sar new .*', new),
    (r'sar evaluate samples.npz .*', as_it_is),
    (r'sar evaluate .*', evaluate),
    (r'sar diagnose .*', diagnose),
    (r'sar share', bare), (r'sar share .*', shared), (r'sar demo.*', page),
    (r'sar parity .*', parity),
    (r'papermill nbs/.*', papermill),
    (r'accelerate (config|launch)', config),
    (r'(accelerate launch|torchrun) .*', launcher),
    (r'python -m .*', module),
    (r'python tools/.*', script),
    (r'make .*', make),
    (r'pip .*', parsed_by_pip),
    (r'git .*', git),
]

def row(command): return next((how for pattern, how in ROWS if re.fullmatch(pattern, command)), None)

def test_no_printed_command_is_left_out():
    assert len(PRINTED) > 60, 'where did they go?'
    left = [c for c in PRINTED if row(c) is None]
    assert not left, f'{len(left)} printed commands that nothing runs: {left}'
    unused = {how.__name__ for _, how in ROWS} - {row(c).__name__ for c in PRINTED}
    assert not unused, f'rows that no printed command needs: {unused}'

@pytest.mark.parametrize('command', PRINTED)
def test_printed_command_works(command, place):
    row(command)(place, words_of(command))
