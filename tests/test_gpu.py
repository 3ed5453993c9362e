"The GPU script and the CPU script, dry: parts run on a CPU and leave whole records; on a machine without a GPU the first says so."
import json, runpy, subprocess, sys

import pytest
import torch
from conftest import ROOT

def script(*args, name='gpu'): return subprocess.run([sys.executable, str(ROOT/f'tools/{name}.py'), *map(str, args)], capture_output=True, text=True, timeout=300)

def test_every_part_runs_dry(tmp_path):
    parts = 'golden,ceilings,steps,whole,attention,sampling,graphs,fp16,saving,profile,training'  # the others are `sar bench`, which has its own tests
    done = script('--dry', '--out', tmp_path, '--parts', parts)
    assert done.returncode == 0, done.stderr[-2000:]
    records = {p: json.loads((tmp_path/f'{p}.json').read_text()) for p in parts.split(',')}
    for name, record in records.items(): assert record['part'] == name and record['dry'] and {'commit', 'machine', 'versions'} <= record.keys()
    assert records['golden']['ok'] and all(records['golden']['files'].values())
    errors = {r['form']: (r['error'], r['gradient_error']) for r in records['attention']['rows']}
    assert len(errors) == 3 and max(map(max, errors.values())) < 1e-5, errors  # grouped by scale is the masked form, forward and backward
    assert all(r['seconds'] > 0 for r in records['sampling']['rows'])
    assert [r['equal'] for r in records['graphs']['rows']] == [1, 1] and len(records['graphs']['rows'][1]['said']) == 1 # a CPU records no CUDA graph, says so, and draws on
    assert all(r['weights_off'] == 0 for r in records['whole']['rows']) and records['whole']['rows'][1]['said'] # the step that can be recorded is the plain one; a CPU says that it records none
    whole, half = records['fp16']['logs']['fp32'], records['fp16']['logs']['fp16']
    assert half['skipped'] == [0, 0, 0] and half['tf'] == pytest.approx(whole['tf'], rel=1e-3) and half['grad'] == pytest.approx(whole['grad'], rel=1e-2)
    assert min(r['written'] for r in records['saving']['rows']) > 0
    assert records['profile']['rows'][0]['seconds'] > 0 and sum(r['share'] for r in records['profile']['rows']) > 0.5
    assert {k for k, log in records['training']['last_epochs'].items() if log['tf'] > 0} == {'start s0', 'sar s0', 'tf s0'}
    assert {r['kind'] for r in records['steps']['rows']} == {'tf', 'sar'} and min(r['seconds'] for r in records['steps']['rows']) > 0

def test_the_cpu_script_runs_dry(tmp_path):
    parts = 'profiles,attention,head,sampling,saving'  # the others compile, which takes a minute
    done = script('--dry', '--out', tmp_path, '--parts', parts, name='cpu')
    assert done.returncode == 0, done.stderr[-2000:]
    records = {p: json.loads((tmp_path/f'{p}.json').read_text()) for p in parts.split(',')}
    for name, record in records.items(): assert record['part'] == name and record['dry'] and {'commit', 'machine', 'versions'} <= record.keys()
    for work in records['profiles']['works']: assert work['R_TFLOPs'] > 0 and {'products', 'attention'} <= work['parts'].keys()
    assert max(records['head']['losses'].values()) - min(records['head']['losses'].values()) < 1e-4
    assert len(records['attention']['seconds']) == 3 and min(records['attention']['seconds'].values()) > 0
    assert all(r['released'] > 0 and r['ours'] > 0 for r in records['sampling']['rows'])

@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_it_says_what_to_do(tmp_path, monkeypatch):
    for args, words in ((), 'there is no GPU here: pass --dry'), (('--dry', '--parts', 'step'), "unknown part 'step': expected one of golden"):
        monkeypatch.setattr(sys, 'argv', ['gpu.py', '--out', str(tmp_path), *args])
        with pytest.raises(SystemExit, match=words): runpy.run_path(str(ROOT/'tools/gpu.py'), run_name='__main__')
