"Paths and helpers that the tests share."
import io, json, os, signal, subprocess, sys, tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault('OMP_NUM_THREADS', '1') # notebooks are tested beside: more threads than cores spin in each other's way
os.environ.setdefault('SAR_PRECISION', 'fp32') # so on every processor; a test of bf16 says so, and SAR_PRECISION=bf16 runs all in bf16
ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT/'nbs').glob('*.ipynb'))
FIRST = 'test_notebooks' # one of two processes waits for nbdev_test, which runs it all in a third; the other begins with the rest

def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem != FIRST)

def python(*args, cwd=ROOT, env=None, timeout=600):
    "Run this interpreter and return the finished process, output as text."
    return subprocess.run([sys.executable, *map(str, args)], cwd=cwd, env={**os.environ, **(env or {})}, text=True, capture_output=True, timeout=timeout)

SERVER = """
import json, os, signal, sys, traceback
exec(sys.argv[1], globals())
import pandas, scipy.stats, torch._dynamo # what runs import on their way: here once for all forks
import sar_repro.jobs.findings, sar_repro.evaluate, sar_repro.jobs.published
for line in sys.stdin:
    code, args, out, err = json.loads(line)
    if not (pid := os.fork()):
        for fd, path in enumerate((os.devnull, out, err)): os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), fd)
        signal.alarm(600) # one that waits for ever
        sys.argv, status = ['-c', *args], 0
        try: exec(code, globals())
        except SystemExit as e: status = e.code if type(e.code) is int else int(e.code is not None)
        except BaseException: status = traceback.print_exc() or 1
        sys.stdout.flush(); sys.stderr.flush(); os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""

class Forks:
    "A process that has run a script; each call runs code in a fork of it, so that the libraries are loaded once."
    def __init__(self, script, **env): self.script, self.env, self.process = script, env, None

    def __call__(self, code, *args):
        if self.process is None: self.process = subprocess.Popen([sys.executable, '-c', SERVER, self.script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', **self.env))
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder)/'out', Path(folder)/'err'
            self.process.stdin.write(json.dumps([code, list(map(str, args)), str(out), str(err)]) + '\n')
            self.process.stdin.flush()
            code = int(self.process.stdout.readline())
            return SimpleNamespace(returncode=code, stdout=out.read_text(), stderr=err.read_text())

def sar_process(*args, **kwargs):
    "Run the `sar` command in a process of its own."
    return python('-c', 'from sar_repro.jobs.cli import main; main()', *args, **kwargs)

def sar(*args, cwd=ROOT):
    "Run the `sar` command in this process: PyTorch is imported once for all calls."
    from sar_repro.jobs.cli import main
    before, environ, out, err, code = os.getcwd(), dict(os.environ), io.StringIO(), io.StringIO(), 0
    os.chdir(cwd)
    try:
        with redirect_stdout(out), redirect_stderr(err): main(list(map(str, args)))
    except SystemExit as e: code = e.code or 0
    finally: # a command tells its kernels where to write, by variables that a process of its own takes with it
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environ)
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())
