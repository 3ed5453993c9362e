"The front of the package: the quick start runs, a loss from a file trains by the real command, `python -c 'import sar_repro'` is quick."
import json
import re

import pytest
from conftest import ROOT, python, sar

CELLS = json.loads((ROOT/'nbs/84_front.ipynb').read_text(encoding='utf-8'))['cells']

def blocks(text):
    return [b for b in re.findall(r'```python\n(.*?)```', text, re.S) if 'import sar_repro' in b]

def test_quick_start(tmp_path):
    [code] = blocks('\n'.join(''.join(c['source']) for c in CELLS if c['cell_type'] == 'markdown'))
    assert len(code.strip().splitlines()) <= 15
    for other in blocks((ROOT/'README.md').read_text(encoding='utf-8')): assert other == code, 'README and 84_front differ'
    done = python('-c', code, cwd=tmp_path, env=dict(PYTHONPATH=str(ROOT)))
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'T-shirt/top' in done.stdout and 'csf' in done.stdout and 'held-out' in done.stdout

LOSS = '''
from sar_repro.strategies import by_scale, rollout, student_pass, teacher_pass, token_loss


class Twice:
    "The truth in both contexts; it remembers the steps that it took."
    passes = 2

    def __init__(self): self.steps = 0

    def __call__(self, model, batch, cfg):
        f_t = teacher_pass(model, batch, cfg)
        ce = token_loss(f_t, batch.tokens)
        yield "tf", ce.mean(), by_scale(ce.detach(), batch.scales)
        f_t = f_t.detach()
        ce = token_loss(student_pass(model, batch, rollout(f_t, batch, cfg), cfg), batch.tokens[:, 1:])
        yield "csf", cfg.gamma * ce.mean(), by_scale(ce.detach(), batch.scales[1:])

    def exchange(self, acc, mine): self.steps += 1
    def measures(self): return dict(steps=self.steps)
    def state_dict(self): return dict(steps=self.steps)
    def load_state_dict(self, state): self.steps = state["steps"]
'''

def test_a_loss_from_a_file_trains_by_the_command(tmp_path):
    (tmp_path/'mine.py').write_text(LOSS)
    # 32 pictures, 16 a step: two steps
    words = '-p size mini -p budget smoke -p method mine.py:Twice -p batch_size 16 -p out_dir out --out x.ipynb'
    done = sar('run', '07_train', *words.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    log = (tmp_path/'out/log.csv').read_text().splitlines()
    row = dict(zip(log[0].split(','), log[1].split(',')))
    assert int(row['steps']) == int(row['step']) == 2 and float(row['csf']) > 0

@pytest.mark.parametrize('method,words', [
    ('gone.py:x', 'no Python file gone.py: expected FILE.py:NAME'), ('mine.py:gone', "mine.py has no loss 'gone': expected one of Twice"),
    ('torn.py:x', 'torn.py stops with SyntaxError'), ('gan', "unknown method 'gan': expected one of tf")])
def test_a_wrong_loss_is_told_at_once(tmp_path, method, words):
    (tmp_path/'mine.py').write_text(LOSS)
    (tmp_path/'torn.py').write_text('1 +')
    done = sar('run', '07_train', '-p', 'size', 'mini', '-p', 'method', method, cwd=tmp_path)
    assert done.returncode and words in done.stderr and done.stderr.count('\n') == 1, done.stderr
