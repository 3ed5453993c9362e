"""How large the house is: minutes of reading, notebooks, lines, imports that run back, seconds to the first picture.

    python tools/count.py [--pages] [--fast]

Each row stands beside its goal. --pages adds every notebook with its words, lines and minutes and the line of its first
answer; --fast leaves out what starts a process. Which notebook stands on which shelf is told by nbs/shelves.json."""
import ast, json, re, subprocess, sys, textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORDS, SECONDS = 200, 4 # words a minute, and seconds for a line of code
METHOD, VERDICT, CHECKED = ('00_sar_in_one_page', '05_ssr', '06_csfl', '07_train'), '10b_fork', ('05_ssr', '06_csfl')
LAYERS = ('engine', '', 'jobs') # folders of the package, the lowest first
CHECK = re.compile(r'^\s*(test_\w+\(|assert\b)', re.M)

def shelves():
    "Shelf -> notebook -> its question."
    return json.loads((ROOT/'nbs/shelves.json').read_text(encoding='utf-8'))

def cells(name):
    "The notebook's cells: kind, source, whether JupyterLab folds it, and its outputs."
    for c in json.loads((ROOT/f'nbs/{name}.ipynb').read_text(encoding='utf-8'))['cells']:
        yield c['cell_type'], ''.join(c['source']), c['metadata'].get('jupyter', {}).get('source_hidden', False), c.get('outputs', [])

def said(output):
    "The text that an output prints; none for a picture."
    data = {'text/plain': output.get('text', ''), **output.get('data', {})}
    return '' if 'image/png' in data else ''.join(data.get('text/markdown') or data['text/plain'])

def lines_of(source): return sum(bool(line.strip()) for line in source.splitlines())

# --- reading

def page(name):
    "Words and visible lines of code of a notebook, its minutes, and the share of these lines that stand in cells which check."
    words = lines = checks = 0
    for kind, source, folded, outputs in cells(name):
        if kind == 'markdown': words += len(source.split())
        words += sum(len(said(o).split()) for o in outputs)
        if kind == 'code' and not folded:
            lines += lines_of(source)
            if CHECK.search(source) and not re.match(r'#\s*\|\s*export', source): checks += lines_of(source)
    return dict(words=words, lines=lines, minutes=words/WORDS + lines*SECONDS/60, checks=checks)

def first_answer(name):
    "The printed line, of code and text, at which the first answer or output of a notebook stands if nothing is folded."
    line = 0
    for kind, source, _, outputs in cells(name):
        for text in source.splitlines():
            if kind == 'markdown' and re.match(r'\*\*(Answer|In short)', text): return line + 1
            line += max(1, len(textwrap.wrap(text, 100)))
        if outputs: return line + 1
    return line

def minutes(names): return sum(page(n)['minutes'] for n in names)

# --- modules

def modules():
    "Module -> its file, without the generated index."
    files = [p for p in (ROOT/'sar_repro').rglob('*.py') if p.stem != '_modidx']
    return {'.'.join(p.relative_to(ROOT).with_suffix('').parts): p for p in files}

def length(path): return len(path.read_text(encoding='utf-8').splitlines())

def imports():
    "Module -> modules of the package that it imports, at the top or inside a function."
    files, graph = modules(), {}
    for name, path in files.items():
        used = set()
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.ImportFrom):
                base = '.'.join(name.split('.')[:-node.level]) if node.level else ''
                base = '.'.join(x for x in (base, node.module or '') if x)
                used |= {base, *(f'{base}.{a.name}' for a in node.names)}
            elif isinstance(node, ast.Import): used |= {a.name for a in node.names}
        graph[name] = (used & files.keys()) - {name}
    return graph

def layer(module):
    "0 for the lowest folder; the package's doors stand above all."
    parts = module.split('.')
    if parts[-1].startswith('__'): return len(LAYERS)
    return LAYERS.index(parts[1] if len(parts) > 2 else '')

def backward():
    "Imports from a folder into one above it."
    return sorted(f'{a} -> {b}' for a, used in imports().items() for b in used if not b.split('.')[-1].startswith('__') and layer(a) < layer(b))

def home_of(name):
    "The module that defines a function of this name."
    return next(m for m, p in modules().items() if "__" not in m and re.search(rf'^def {name}\(', p.read_text(encoding='utf-8'), re.M))

def loaded(*functions):
    "Lines of ours that a fresh process has loaded when it can call these functions."
    lines = '\n'.join(f'from {home_of(f)} import {f}' for f in functions)
    names = run(f"{lines}\nimport sys\nprint(*[m for m in sys.modules if m.startswith('sar_repro')])").split()
    return sum(length(p) for m, p in modules().items() if m in names)

def run(code):
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, text=True, capture_output=True)
    if done.returncode: raise SystemExit(done.stderr)
    return done.stdout

# --- a parameter

def _declared(tree):
    "Places in a tree that give gamma a default, a range or a recipe's value: fields, NUMBERS, RECIPES."
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef): yield from (n for n in node.body if isinstance(n, ast.AnnAssign) and n.target.id == 'gamma')
        if isinstance(node, ast.Assign) and re.match('_?(NUMBERS|RECIPES)', ast.unparse(node.targets[0])):
            yield from (n for n in ast.walk(node.value) if isinstance(n, ast.keyword) and n.arg == 'gamma')

def declarations():
    "Where gamma is declared: in modules, and in 07 by a value in its parameters or by hand among its settings."
    places = [m for m, p in modules().items() for _ in _declared(ast.parse(p.read_text(encoding='utf-8')))]
    for kind, source, _, _ in cells('07_train'):
        if kind == 'code': places += ['07_train'] * len(re.findall(r'^gamma\b.*= *(?!None\b)\S|\bgamma=gamma\b', source, re.M))
    return places

# --- seconds

FIRST = """
import resource
try:
    from sar_repro import load
    load('mini').sample([0])
except ImportError:
    import torch
    from sar_repro.models import load_models
    from sar_repro.scale_ar import sample
    model, vae = load_models('mini')
    sample(model, vae, torch.tensor([0]))
print(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
"""
def first_picture(): return float(run(FIRST))

def import_ms(): return 1000*float(run('import time\nstart = time.perf_counter()\nimport sar_repro\nprint(time.perf_counter() - start)'))

# --- the table

def rows(processes=True):
    "Row -> value now, and goal; rows that start a process only if asked for."
    shelf, sizes = shelves(), {m: length(p) for m, p in modules().items()}
    path, checked = list(shelf['path']), [page(n) for n in CHECKED]
    table = {
        'minutes: path': (minutes(path), 150), 'minutes: method': (minutes(METHOD), 60), 'minutes: verdict': (minutes([VERDICT]), 12),
        'minutes: README': (len((ROOT/'README.md').read_text(encoding='utf-8').split())/WORDS, 9),
        'notebooks: path': (len(path), 10), 'notebooks: all': (sum(map(len, shelf.values())), 34),
        'lines: modules': (sum(sizes.values()), 14_500), 'lines: largest': (max(sizes.values()), 700),
        'imports that run back': (len(backward()), 0), 'declarations of gamma': (len(declarations()), 1),
        '% of lines that check, 05 and 06': (100*sum(p['checks'] for p in checked)/sum(p['lines'] for p in checked), 10)}
    if not processes: return table
    return table | {
        'lines: behind train_run': (loaded('train_run'), 6_500), 'lines: behind sampling': (loaded('load_models', 'sample'), 4_000),
        'seconds: first picture': (first_picture(), 4), 'ms: import': (import_ms(), 50)}

def main(pages, fast):
    for row, (now, goal) in rows(not fast).items(): print(f"{row:34} {now:9,.1f} {goal:9,} {'' if now <= goal else ' above'}")
    print('\nfirst answer at a printed line above 40:', ', '.join(f'{n} {line}' for s in shelves().values() for n in s if (line := first_answer(n)) > 40) or 'nowhere')
    print('largest modules:', ', '.join(f'{m} {n}' for m, n in sorted(((m, length(p)) for m, p in modules().items()), key=lambda x: -x[1])[:6]))
    for shelf, names in shelves().items() if pages else ():
        print(f'\n{shelf:22} words lines minutes answer')
        for n in names:
            p = page(n)
            print(f"{n:22} {p['words']:5} {p['lines']:5} {p['minutes']:7.1f} {first_answer(n):6}")

if __name__ == '__main__': main('--pages' in sys.argv, '--fast' in sys.argv)
