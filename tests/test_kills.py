"Commands killed at any moment and given again: the same files as undisturbed. SAR_KILLS=20 makes it a long run."
import os, random, signal, subprocess, sys, time
import numpy as np
import pytest
from PIL import Image
from conftest import ROOT

KILLS = int(os.environ.get('SAR_KILLS', 0)) # of each command
pytestmark = pytest.mark.skipif(not KILLS, reason='minutes long: set SAR_KILLS to how often each command is killed')
CODE = 'from sar_repro.jobs.cli import main; main()'
COMMANDS = dict( # name: arguments, and what it leaves
    sample=(('sample', '--size', 'mini', '--n', '30', '--out', 'out.png'), 'out.png'),
    evaluate=(('evaluate', '--size', 'mini', '--dataset', 'pictures', '--n', '40', '--out', 'out.json'), 'out.json'),
    diagnose=(('diagnose', '--size', 'mini', '--dataset', 'pictures', '--n', '20', '--out', 'out'), 'out/*.csv'))
COMMANDS['run --all'] = ('run', '--all', '--budget', 'smoke', '--out', 'all'), 'all/index.html'

def start(args, folder):
    env = dict(os.environ, SAR_WORK=str(folder), PYTHONPATH=str(ROOT))
    return subprocess.Popen([sys.executable, '-c', CODE, *args], cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)

def finish(args, folder):
    process = start(args, folder)
    _, err = process.communicate(timeout=3600)
    assert process.returncode == 0 and 'Traceback' not in err, err[-2000:]

def pictures(folder): # ten classes of twenty
    rng = np.random.default_rng(0)
    for c in range(10):
        (folder/f'pictures/{c}').mkdir(parents=True)
        for i in range(20): Image.fromarray((rng.integers(0, 40, (16, 16)) + 20*c).astype(np.uint8)).save(folder/f'pictures/{c}/{i:02}.png')
    return folder

def left(folder, pattern): # without when and how long
    text = lambda p: b'\n'.join(l for l in p.read_bytes().split(b'\n') if not any(w in l for w in (b'"seconds', b'"commit', b'"date')))
    return {p.name: text(p) for p in sorted(folder.glob(pattern))}

@pytest.mark.parametrize('name', COMMANDS)
def test_a_killed_command_is_given_again(tmp_path, name):
    (args, pattern), rng = COMMANDS[name], random.Random(0)
    whole, torn = pictures(tmp_path/'whole'), pictures(tmp_path/'torn')
    begun = time.time()
    finish(args, whole)
    takes, kills, late = time.time() - begun, 0, 0
    while kills < KILLS and late < 20:
        process = start(args, torn)
        try: process.wait(rng.uniform(0.3, 0.95)*min(takes, 60))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        else: late += 1 # it was done before the blow: what is up to date is left out
        process.communicate()
    assert kills, 'it was never cut'
    finish(args, torn)
    if pattern.endswith('html'): return # its pages name the run's times
    assert left(whole, pattern) and left(torn, pattern) == left(whole, pattern)
