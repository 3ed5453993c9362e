"""A static site of all notebooks from their stored outputs: nothing is executed, and no network is needed.

    make site        # or: python tools/pages.py [OUT]; writes _site/html, which any web server or browser opens

Cells that JupyterLab folds are folded there, every picture has an alternative text (its caption), formulas are MathML, and
the contents follow nbs/shelves.json. It wants the extra `site`: pip install -e ".[site]"."""
import json, re, shutil, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHELVES = dict(path='The path', further='Further', engine='The engine')
BESIDE = ('figures', 'FIRST_HOUR.md', 'CHANGELOG.md', 'CITATION.cff', 'LICENSE', 'data/README.md', 'README.md') # what notebooks link to

def contents():
    "The table of contents, as jupyter-book wants it."
    shelves = json.loads((ROOT/'nbs/shelves.json').read_text(encoding='utf-8'))
    parts = [dict(caption=SHELVES[s], chapters=[dict(file=f'nbs/{n}') for n in names]) for s, names in shelves.items()]
    return dict(format='jb-book', root='nbs/index', parts=parts)

CONFIG = dict(
    title='SAR, reproduced', author='sar_repro authors', copyright='2026', only_build_toc_files=True,
    execute=dict(execute_notebooks='off'), parse=dict(myst_enable_extensions=['dollarmath', 'amsmath', 'html_image']),
    html=dict(use_issues_button=False, use_repository_button=False, home_page_in_navbar=True, extra_footer=''),
    launch_buttons=dict(notebook_interface='classic', binderhub_url='', thebe=False),
    sphinx=dict(local_extensions=dict(formulas='./'), config=dict(
        html_math_renderer='mathml', nb_code_prompt_show='Show code', nb_code_prompt_hide='Hide code', nb_render_markdown_format='myst', myst_heading_anchors=4, html_static_path=['_static'], html_css_files=['site.css'],
        suppress_warnings=['myst.header', 'mystnb.unknown_mime_type', 'myst.xref_missing'], html_theme_options=dict(show_navbar_depth=1, use_download_button=False))))

FORMULAS = '''"Formulas as MathML: no script, no network."
from latex2mathml.converter import convert

def written(node, display):
    try: return convert(node.astext(), display=display)
    except Exception: return f'<code>{node.astext()}</code>'

def inline(self, node):
    self.body.append(written(node, 'inline'))
    from docutils.nodes import SkipNode
    raise SkipNode

def block(self, node):
    self.body.append('<div class="formula">' + written(node, 'block') + '</div>')
    from docutils.nodes import SkipNode
    raise SkipNode

def setup(app):
    app.add_html_math_renderer('mathml', (inline, None), (block, None))
    return dict(parallel_read_safe=True, parallel_write_safe=True)
'''

CSS = '''img { max-width: 100%; height: auto; }
.formula { margin: 1em 0; }
.formula, div.cell_output, div.text_html, .pst-scrollable-table-container { overflow-x: auto; max-width: 100%; }
table { display: block; overflow-x: auto; max-width: 100%; }
pre { overflow-x: auto; }
@media (max-width: 600px) { math[display=inline] { display: inline-block; max-width: 100%; overflow-x: auto; overflow-y: hidden; vertical-align: middle; } }
code.literal, code.literal span.pre { white-space: normal; overflow-wrap: anywhere; }
'''

def plain(text):
    "Text without markup, on one line."
    text = re.sub(r'!?\[([^\]]*)\]\([^)]*\)', r'\1', text)
    text = re.sub(r'\\(?:mathcal|mathrm|text|,)\b ?|[*`${}\\]|<[^>]+>', '', text)
    return ' '.join(text.split())

def paragraphs(text): return [p for p in re.split(r'\n\s*\n', text) if p.strip() and not re.match(r'\s*(#|\||~~~|```|\[←|\[contents)', p)]

def told(cell):
    "What a cell says to a reader, as paragraphs."
    if cell['cell_type'] == 'markdown': return paragraphs(''.join(cell['source']))
    return [p for o in cell['outputs'] for p in paragraphs(''.join(o.get('data', {}).get('text/markdown', '')))]

def alternative(cells, i):
    "The text for who does not see the pictures of cell i: its caption, else what is said about them first, else last."
    nearest = lambda ids: next((t for j in ids if (t := told(cells[j]))), [])
    own, after, before = told(cells[i]), nearest(range(i + 1, len(cells))), nearest(range(i - 1, 0, -1))
    captions = [p for p in own + before[::-1] + after if 'In the figure' in p]
    said = (captions or own or after or before[::-1] or ['A figure'])[0]
    said = plain(said[said.index('In the figure'):] if captions else said)
    return said if len(said) < 500 else said[:said.rfind('. ', 0, 500) + 1] or said[:500]

def anchors(text):
    "Links to headings as the site names them."
    slug = lambda m: m[1] + '#' + re.sub(r'[^\w\- ]', '', m[2].lower().replace('%20', ' ')).replace(' ', '-') + ')'
    return re.sub(r'(\]\([^)#\s]*)#([^)\s]+)\)', slug, text)

def spaced(text):
    "Displayed formulas as paragraphs of their own."
    return re.sub(r'^[ \t]*\$\$(.+?)\$\$[ \t]*$', lambda m: f'\n$$\n{m[1].strip()}\n$$\n', text, flags=re.M | re.S)

def for_site(notebook):
    "The notebook as the site shows it: folded cells hidden, directives gone, pictures with an alternative text."
    cells, kept = notebook['cells'], []
    for i, cell in enumerate(cells):
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown': source = re.sub(r'^\[(←|contents\]).*$\n?', '', spaced(anchors(source)), flags=re.M)
        else:
            folded, source = cell['metadata'].get('jupyter', {}).get('source_hidden'), re.sub(r'^#\s*\|.*\n?', '', source, flags=re.M)
            if not source.strip() and not cell['outputs']: continue
            cell['metadata'] = dict(tags=['hide-input'] if folded else [])
            if any('image/png' in o.get('data', {}) for o in cell['outputs']): cell['metadata']['mystnb'] = dict(image=dict(alt=alternative(cells, i)))
            for o in cell['outputs']:
                if 'text/markdown' in o.get('data', {}): o['data']['text/markdown'] = spaced(anchors(''.join(o['data']['text/markdown'])))
            if folded and not cell['outputs'] and kept and kept[-1]['cell_type'] == 'code' and kept[-1]['metadata']['tags'] and not kept[-1]['outputs']:
                kept[-1]['source'] += '\n\n' + source # one fold for cells that nobody reads in passing
                continue
        kept.append(dict(cell, source=source))
    return dict(notebook, cells=kept)

def prepare(folder):
    "Everything that jupyter-book reads."
    shutil.rmtree(folder, ignore_errors=True)
    (folder/'nbs').mkdir(parents=True)
    for name in BESIDE:
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT/name).is_dir(): shutil.copytree(ROOT/name, folder/name, ignore=shutil.ignore_patterns('*.json'))
        elif (ROOT/name).exists(): shutil.copy(ROOT/name, folder/name)
    for path in sorted((ROOT/'nbs').glob('*.ipynb')):
        (folder/'nbs'/path.name).write_text(json.dumps(for_site(json.loads(path.read_text(encoding='utf-8')))), encoding='utf-8')
    (folder/'_static').mkdir()
    for name, text in {'_config.yml': json.dumps(CONFIG), '_toc.yml': json.dumps(contents()), 'formulas.py': FORMULAS, '_static/site.css': CSS}.items(): # JSON is YAML
        (folder/name).write_text(text, encoding='utf-8')

def main(out):
    command = Path(sys.executable).with_name('jupyter-book')
    if not command.exists(): sys.exit('jupyter-book is not there: run `pip install -e ".[site]"`')
    prepare(out/'source')
    done = subprocess.run([str(command), 'build', str(out/'source'), '--path-output', str(out), '--quiet'])
    if done.returncode: sys.exit(done.returncode)
    shutil.rmtree(out/'html', ignore_errors=True)
    shutil.move(out/'_build/html', out/'html')
    print(f"{len(list((out/'html').rglob('*.html')))} pages in {out/'html'}: open {out/'html/index.html'}")

if __name__ == '__main__': main(Path(sys.argv[1] if sys.argv[1:] else ROOT/'_site').resolve())
