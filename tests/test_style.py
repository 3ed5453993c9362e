"How the notebooks read and what a reader sees: columns, statements, folds, checks."
import ast
import json
import re

import pytest
from conftest import NOTEBOOKS

COLUMNS, LINES, CELLS = 100, 30, 45
READER = [p for p in NOTEBOOKS if re.match(r'index|0\d|1\d', p.stem)] # the path that a reader follows
DRAWS = re.compile(r'\b(plt|sns)\.|\.plot\b|show_images\(|save_figure\(|\bplot_\w+\(')
TESTS = re.compile(r'^\s*(test_\w+\(|assert\b)', re.M)

def code_cells(path):
    "Source, and whether a reader sees it, of every code cell that holds any."
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'code' and source.strip():
            folded = cell['metadata'].get('jupyter', {}).get('source_hidden', False)
            yield source, not folded

def statements_on_one_line(source):
    "Lines that hold more than one statement."
    lines = []
    for node in ast.walk(ast.parse(re.sub(r'^\s*[%!].*$', 'pass', source, flags=re.M))):
        for body in (getattr(node, name, None) for name in ('body', 'orelse', 'finalbody')):
            if isinstance(body, list):
                lines += [b.lineno for a, b in zip(body, body[1:]) if a.end_lineno == b.lineno]
    return lines

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_columns_and_statements(path):
    wide = [line for source, _ in code_cells(path) for line in source.splitlines() if len(line) > COLUMNS]
    assert not wide, f'{len(wide)} lines of {path.name} are longer than {COLUMNS} columns: {wide[0].strip()[:60]} ...'
    double = [source.splitlines()[i - 1] for source, _ in code_cells(path) for i in statements_on_one_line(source)]
    assert not double, f'{len(double)} lines of {path.name} hold two statements: {double[0].strip()[:60]} ...'

@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_hidden_cells_are_folded(path):
    shown = [source for source, visible in code_cells(path) if visible and re.match(r'#\s*\|\s*hide', source)]
    assert not shown, f'{len(shown)} `#| hide` cells of {path.name} show in JupyterLab: fold them (jupyter.source_hidden)'

@pytest.mark.parametrize('path', READER, ids=lambda p: p.stem)
def test_cells_are_few(path):
    count = len(json.loads(path.read_text(encoding='utf-8'))['cells'])
    assert count <= CELLS, f'{path.name} has {count} cells: a reader tires'

@pytest.mark.parametrize('path', READER, ids=lambda p: p.stem)
def test_visible_cells_fit_a_screen(path):
    long = [source for source, visible in code_cells(path) if visible and len(source.splitlines()) > LINES]
    assert not long, f'{len(long)} visible cells of {path.name} are longer than {LINES} lines: {long[0][:60]} ...'

@pytest.mark.parametrize('path', READER, ids=lambda p: p.stem)
def test_no_test_stands_in_a_cell_that_draws(path):
    both = [source for source, visible in code_cells(path) if visible and not source.startswith('#| export') and DRAWS.search(source) and TESTS.search(source)]
    assert not both, f'{len(both)} cells of {path.name} draw and test: {both[0][:60]} ...'

@pytest.mark.parametrize('path', READER, ids=lambda p: p.stem)
def test_a_check_stops_no_reader(path):
    "Run All and `sar run` go on past a cell with the tag `raises-exception`; nbdev_test and `sar execute` end there all the same."
    cells = [(''.join(c['source']), c['metadata'].get('tags', [])) for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
    stops = [source for source, tags in cells if TESTS.search(source) and not re.match(r'#\s*\|\s*export', source) and 'raises-exception' not in tags]
    assert not stops, f'{len(stops)} cells of {path.name} check without the tag raises-exception, so that a check stands between a reader and the next figure: {stops[0][:60]} ...'
