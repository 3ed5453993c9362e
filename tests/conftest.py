"Paths and helpers that the tests share."
import os, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT/'nbs').glob('*.ipynb'))

def python(*args, cwd=ROOT, env=None, timeout=600):
    "Run this interpreter and return the finished process, output as text."
    return subprocess.run([sys.executable, *map(str, args)], cwd=cwd, env={**os.environ, **(env or {})}, text=True, capture_output=True, timeout=timeout)

def sar(*args, **kwargs):
    "Run the `sar` command as the console script would."
    return python('-c', 'from sar_repro.cli import main; main()', *args, **kwargs)

@pytest.fixture
def live(request):
    "Print to the terminal although pytest captures output."
    manager = request.config.pluginmanager.getplugin('capturemanager')
    def say(text):
        with manager.global_and_fixture_disabled(): print(text, flush=True)
    return say
