"Render README.md from nbs/index.ipynb, or with --check say whether the two agree."
import re, sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
INDEX, README = ROOT/'nbs'/'index.ipynb', ROOT/'README.md'
directive = re.compile(r'^\s*#\s*\|\s*(.*?)\s*$')

def visible(cell):
    "The cell as a reader should see it, or None where it is hidden."
    if cell.cell_type != 'code': return cell if cell.cell_type == 'markdown' else None
    lines = cell.source.splitlines()
    flags = [m[1] for m in map(directive.match, lines) if m]
    if {'hide', 'default_exp'} & {f.split()[0] for f in flags if f}: return None
    cell.source = '\n'.join(l for l in lines if not directive.match(l)).strip()
    cell.outputs = [o for o in cell.outputs if o.get('name') != 'stderr']
    if any(k.startswith('image/') for o in cell.outputs for k in o.get('data', {})):
        sys.exit(f'{INDEX.name}: a cell has a picture as its output; save it under figures/ and link to it from a markdown cell')
    if 'echo: false' in flags: cell.metadata['sar_output_only'] = True
    return cell if cell.source or cell.outputs else None

def from_root(text):
    "Links written for nbs/ as they must read at the repository's root."
    def mend(m):
        before, link = m.groups()
        if re.match(r'[a-z]+:|#|/', link): return m[0]
        return before + (link[3:] if link.startswith('../') else f"nbs/{link.removeprefix('./')}")
    text = re.sub(r'(\]\()([^)\s]+)', mend, text)
    return re.sub(r'((?:src|href)=")([^"]+)', mend, text)

def render():
    "README.md as text."
    if not INDEX.exists(): sys.exit(f'{INDEX.relative_to(ROOT)} is missing')
    nb = nbformat.read(INDEX, as_version=4)
    nb.cells = [c for c in map(visible, nb.cells) if c is not None]
    for c in nb.cells:
        if c.metadata.pop('sar_output_only', False): c.metadata['tags'] = ['output-only']
    exporter = MarkdownExporter()
    exporter.register_preprocessor('nbconvert.preprocessors.TagRemovePreprocessor', enabled=True)
    exporter._preprocessors[-1].remove_input_tags = {'output-only'}
    text = exporter.from_notebook_node(nb)[0]
    text = re.sub(r'<style.*?</style>\s*', '', text, flags=re.S)
    text = re.sub(r'[ \t]+$', '', from_root(text), flags=re.M)
    return '<!-- rendered from nbs/index.ipynb by `make readme`; edit that -->\n\n' + re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'

if __name__ == '__main__':
    text = render()
    if sys.argv[1:] != ['--check']: README.write_text(text, encoding='utf-8'); print('README.md written')
    elif not README.exists() or README.read_text(encoding='utf-8') != text:
        sys.exit('README.md is not what nbs/index.ipynb renders to: run `make readme`')
