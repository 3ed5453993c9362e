"A model folder goes to another place and draws the same there; the page is clicked in a browser, where there is one."
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from urllib.request import urlopen

import pytest
from conftest import ROOT, python, sar

DRAW = '''
import hashlib, sys, sar_repro
pictures = sar_repro.load(sys.argv[1]).sample([0, 1, 8], seed=7)
print(hashlib.sha256(pictures.numpy().tobytes()).hexdigest())
'''
ENV = dict(PYTHONPATH=os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH')))), CUDA_VISIBLE_DEVICES='')
RECORD = json.loads((ROOT/'results/mini-fashion16-sar-s0.json').read_text())

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A run that left mini after SAR and its record, as `sar share` writes it."
    from sar_repro.engine.files import weights_hash
    from sar_repro.models import load_model
    place = tmp_path_factory.mktemp('share')
    (place/'run').mkdir()
    for name, file in (('model', 'sar'), ('tokenizer', 'tokenizer')): shutil.copy(ROOT/f'pretrained/mini/{file}.safetensors', place/f'run/{name}.safetensors')
    key = weights_hash(load_model('mini', place/'run/model.safetensors'))
    (place/'run/mini.json').write_text(json.dumps(dict(RECORD, weights=key)))
    done = sar('share', 'run', '--out', 'mini', cwd=place)
    assert done.returncode == 0 and 'written: mini' in done.stdout, done.stderr
    return place/'mini'

def drawn(model, cwd): # by a process of its own
    done = python('-c', DRAW, model, cwd=cwd, env=ENV)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()

def test_the_same_pictures_elsewhere_bit_for_bit(folder, tmp_path):
    shutil.copytree(folder, tmp_path/'theirs')
    assert sorted(p.name for p in (tmp_path/'theirs').iterdir()) == ['README.md', 'config.json', 'model.safetensors', 'samples.png', 'tokenizer.safetensors']
    assert drawn('theirs', tmp_path) == drawn(str(ROOT/'pretrained/mini/sar.safetensors'), tmp_path)

def test_the_card_is_made_of_the_record(folder):
    card = (folder/'README.md').read_text()
    kid = next(r for r in RECORD['distances'] if r['against'] == 'held-out' and r['pictures'] == 'after')
    low, high = (kid['KID x1000'] + s * 1.96 * kid['KID se'] for s in (-1, 1))
    assert f"{kid['KID x1000']:.3g} [{low:.3g}, {high:.3g}]" in card
    assert 'license: mit' in card and '`0.00031`' in card and str(ROOT) not in card and 'sar_repro.load("./mini")' in card

def test_pictures_are_drawn_as_the_folder_says(folder, tmp_path):
    shutil.copytree(folder, tmp_path/'theirs')
    told = json.loads((folder/'config.json').read_text())
    (tmp_path/'theirs/config.json').write_text(json.dumps(dict(told, guidance=3.0)))
    assert drawn('theirs', tmp_path) != drawn(str(folder), tmp_path)

def test_nothing_is_sent_and_no_hub_is_asked(folder, tmp_path):
    code = 'import sys; sys.modules["huggingface_hub"] = None; from sar_repro.jobs.cli import main; main(sys.argv[1:])'
    done = python('-c', code, 'share', folder, '--out', 'again', cwd=tmp_path, env=ENV)
    assert done.returncode == 0, done.stderr
    done = python('-c', code, 'share', folder, '--out', 'sent', '--push', 'ann/clothes', cwd=tmp_path, env=ENV)
    assert done.returncode == 2 and 'pip install huggingface_hub' in done.stderr and not (tmp_path/'sent').exists()
    code = 'import sys; sys.modules["huggingface_hub"] = None; import sar_repro; sar_repro.load("ann/clothes")'
    done = python('-c', code, cwd=tmp_path, env=ENV)
    assert 'SarError: ann/clothes is no folder here, and looking for it on the hub needs huggingface_hub' in done.stderr

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)

@pytest.fixture
def page(folder):
    "The address of a page that `sar demo` shows."
    pytest.importorskip('gradio')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    command = [sys.executable, '-c', 'from sar_repro.jobs.cli import main; main()', 'demo', str(folder), '--port', str(port)]
    process, address = subprocess.Popen(command, env=os.environ | ENV), f'http://127.0.0.1:{port}/'
    try:
        for _ in range(240):
            assert process.poll() is None, 'the page ended'
            try: urlopen(address, timeout=5).close()
            except OSError: time.sleep(0.5)
            else: break
        yield address
    finally:
        process.kill()
        process.wait()

@pytest.mark.skipif(not CHROMIUM, reason='no browser')
def test_the_page_is_clicked(page):
    "Another seed draws another picture, the same seed the same one, and a wrong seed is told."
    playwright = pytest.importorskip('playwright.sync_api')
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        tab, asked = browser.new_page(), []
        tab.on('request', lambda request: asked.append(request.url))
        tab.goto(page)
        seen = lambda label: tab.locator(f'div.block:has-text("{label}") img').last

        def click(seed):
            tab.get_by_label('Seed').fill(str(seed))
            tab.get_by_role('button', name='Draw').click()
            tab.wait_for_timeout(3000)
            return hashlib.sha256(seen('Coarse to fine').screenshot()).hexdigest()

        seen('Coarse to fine').wait_for(timeout=60_000)
        first, other, again = click(1), click(2), click(1)
        assert first == again != other
        outside = [url for url in asked if '127.0.0.1' not in url and not url.startswith(('data:', 'blob:'))]
        browser.close()
    assert not outside, outside
