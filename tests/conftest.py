"Paths and helpers that the tests share."
import io, os, subprocess, sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT/'nbs').glob('*.ipynb'))
FIRST = ['test_notebooks', 'test_generated'] # then the rest

def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))

def python(*args, cwd=ROOT, env=None, timeout=600):
    "Run this interpreter and return the finished process, output as text."
    return subprocess.run([sys.executable, *map(str, args)], cwd=cwd, env={**os.environ, **(env or {})}, text=True, capture_output=True, timeout=timeout)

def sar_process(*args, **kwargs):
    "Run the `sar` command in a process of its own."
    return python('-c', 'from sar_repro.cli import main; main()', *args, **kwargs)

def sar(*args, cwd=ROOT):
    "Run the `sar` command in this process: PyTorch is imported once for all calls."
    from sar_repro.cli import main
    before, out, err, code = os.getcwd(), io.StringIO(), io.StringIO(), 0
    os.chdir(cwd)
    try:
        with redirect_stdout(out), redirect_stderr(err): main(list(map(str, args)))
    except SystemExit as e: code = e.code or 0
    finally: os.chdir(before)
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())
