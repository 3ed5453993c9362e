"Trainings, latent caches and samples that are killed, starved of disk or given torn files end as undisturbed ones do, bit for bit."
import textwrap
from conftest import Forks

SCRIPT = textwrap.dedent('''
    import errno, os, random, resource, signal, sys, threading, time, warnings
    from pathlib import Path
    import numpy as np
    import torch
    from sar_repro.engine.core import ModelConfig, SarError, TokenizerConfig, TrainConfig
    from sar_repro import data
    from sar_repro.data import ImageSet, latent_cache
    from sar_repro.sampling import sample_shards
    from sar_repro.scale_ar import FlexVAR
    from sar_repro.tokenizer import Codebook, FlexVAE
    from sar_repro.engine.files import weights_hash
    from sar_repro.tokenizer import TokenData
    from sar_repro.jobs.runs import train_run
    from sar_repro.strategies import get_loss
    import accelerate, sar_repro.models
    from tqdm.std import tqdm
    torch.set_num_threads(1)
    tqdm.monitor_interval = 0; tqdm.set_lock(threading.RLock()) # the usual lock is shared by forks: one killed while holding it would stop all others

    def Toy(n=160, scales=(1, 2, 3), vocab=32):
        tokens = torch.randint(vocab, (n, 2, 14), generator=torch.Generator().manual_seed(0)).short()
        torch.manual_seed(0)
        return TokenData(tokens, torch.arange(n) % 3, scales, Codebook(vocab, 8).requires_grad_(False), name='toy', stamp='toy', tokenizer='toy')

    def run(folder):
        torch.manual_seed(1)
        model = FlexVAR(ModelConfig(depth=2, embed_dim=64, num_heads=1, vocab_size=32, latent_channels=8, num_classes=3, scales=(1, 2, 3), pos_side=4))
        train_run(model, Toy(), get_loss('sar'), TrainConfig(epochs=6, batch_size=8, lr=1e-3, precision='fp32', rollout_guidance=1.2), folder, held=Toy(), save_every=3)
        return weights_hash(model)

    def child(work): # a fork, so that the libraries are loaded once for all attempts
        pid = os.fork()
        if not pid:
            try: work()
            except BaseException as e: print(type(e).__name__, e, file=sys.stderr, flush=True); os._exit(1)
            os._exit(0)
        return pid

    def kill_often(work, folder, kills=20, share=(0.01, 0.11)): # work(folder) in child processes that live for a random share of what the whole work takes; returns the kills
        begun, rng, killed = time.time(), random.Random(0), 0
        assert os.waitpid(child(lambda: work(folder/'whole')), 0)[1] == 0
        whole = time.time() - begun
        while killed < kills: # on a quick machine one run may be over sooner: the next one takes the rest of the kills
            folder = folder/'killed'
            while True:
                pid, until = child(lambda: work(folder)), time.time() + rng.uniform(*share)*whole
                while not (over := os.waitpid(pid, os.WNOHANG)[0]) and (killed >= kills or time.time() < until): time.sleep(0.0005)
                if over: break
                os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0); killed += 1
        return killed

    data.PART = 20
    def cached(folder): # 160 pictures in blocks of two, eight parts
        g = torch.Generator().manual_seed(0)
        pictures = ImageSet('toy', 'train', 8, ['a'], torch.zeros(160), torch.randint(256, (160, 3, 8, 8), generator=g).byte())
        return latent_cache(pictures, lambda x: torch.nn.functional.avg_pool2d(x, 2), 'toy', folder, batch_size=2)

    def drawn(folder): # 30 shards of four pictures
        torch.manual_seed(0)
        vae = FlexVAE(TokenizerConfig(ch=16, ch_mult=(1, 1), z_channels=16, latent_channels=8, vocab_size=32, enc_blocks=1, dec_blocks=1, groups=8)).eval().requires_grad_(False); vae.key = 'toy'
        model = FlexVAR(ModelConfig(depth=1, embed_dim=64, num_heads=1, vocab_size=32, latent_channels=8, num_classes=3, scales=(1, 2, 4), pos_side=4)).eval().requires_grad_(False)
        return sample_shards(model, vae, torch.arange(120) % 3, folder, per_shard=4, group=4, precision='fp32', guidance=1.5)
''')

def contents(folder): return {p.name: p.read_bytes() for p in folder.glob('*.npy')}

forks = Forks(SCRIPT)

def python(code, *args): return forks(textwrap.dedent(code), *args)

def test_twenty_kills_at_random_moments_change_nothing(tmp_path):
    done = python('''
        print(kill_often(lambda folder: print(f'{folder}={run(folder)}', flush=True), Path(sys.argv[1])))
    ''', tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    *said, kills = done.stdout.split()
    words = {tuple(word.split('=')) for word in said} # a run that is killed between its last word and its end says the word again
    assert int(kills) >= 20 and len({word for _, word in words}) == 1, (done.stdout, done.stderr[-2000:])
    assert sorted(folder for folder, _ in words) == sorted(map(str, [tmp_path/'whole', *tmp_path.rglob('killed')])), done.stdout
    for folder in tmp_path.rglob('killed'):
        assert (tmp_path/'whole/log.csv').read_bytes() == (folder/'log.csv').read_bytes()
        assert not list(folder.glob('.*.tmp')) and len(list(folder.glob('state-*.pt'))) <= 3

def test_twenty_kills_leave_latent_caches_and_sample_shards_as_they_would_be(tmp_path):
    done = python('''
        cached(Path(sys.argv[1])/'warm'); drawn(Path(sys.argv[1])/'warm') # the first call of each imports and plans
        for name, work in (('cache', cached), ('shards', drawn)): print(kill_often(work, Path(sys.argv[1])/name, 25, (0.02, 0.6)))
    ''', tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [int(k) >= 20 for k in done.stdout.split()] == [True, True], done.stdout
    for name, files in (('cache', 1), ('shards', 30)):
        whole = contents(tmp_path/name/'whole'); assert len(whole) == files
        for folder in (tmp_path/name).rglob('killed'): assert contents(folder) == whole, folder

def test_full_disk_leaves_what_is_done_of_a_cache_and_of_shards(tmp_path):
    done = python('''
        folder, save, calls = Path(sys.argv[1]), np.save, []
        def small(): # no file may grow beyond 5,000 bytes: the cache's parts fit, the whole does not
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)); cached(folder/'cache')
        def full(file, array):
            calls.append(1)
            if len(calls) < 4: return save(file, array)
            file.write(bytes(100)); raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        def no_room(): np.save = full; drawn(folder/'shards')
        print(*(os.waitstatus_to_exitcode(os.waitpid(child(f), 0)[1]) for f in (small, no_room)))
        print(len(list((folder/'cache').glob('*.npy'))), len(list((folder/'shards').glob('shard-*.npy'))), len(list(folder.rglob('.*.tmp'))))
        for where in (folder, folder/'whole'): cached(where/'cache'); drawn(where/'shards')
    ''', tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ['1', '1', '8', '3', '0'], done.stdout
    assert done.stderr.count('SarError cannot write') == 2 and done.stderr.count('check permission and free space') == 2 and 'No space left on device' in done.stderr
    for name in ('cache', 'shards'): assert contents(tmp_path/name) == contents(tmp_path/'whole'/name)

def test_full_disk_stops_with_the_last_good_state_in_place(tmp_path):
    done = python('''
        folder, free = Path(sys.argv[1]), resource.getrlimit(resource.RLIMIT_FSIZE)
        def starved():
            def no_room(*_): resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, free[1])) # a write fails as on a full disk
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN); signal.signal(signal.SIGALRM, no_room)
            while not list(folder.glob('state-*.pt')) and not starved.armed: signal.setitimer(signal.ITIMER_REAL, float(sys.argv[2])); starved.armed = True
            run(folder)
        starved.armed = False
        _, status = os.waitpid(child(starved), 0)
        states = sorted(p.name for p in folder.glob('state-*.pt')); whole = [torch.load(folder/s, weights_only=True)['step'] for s in states]
        print(status, len(states), min(whole, default=0), run(folder))
    ''', tmp_path/'run', 1.0)
    assert done.returncode == 0, done.stderr[-2000:]
    status, states, first, weights = done.stdout.split()
    assert status != '0' and int(states) >= 1 and int(first) > 0, 'the disk was full too early or too late: the test shows nothing'
    assert 'SarError cannot write' in done.stderr and 'free space' in done.stderr
    assert weights == python("print(run(Path(sys.argv[1])))", tmp_path/'other').stdout.strip()

def test_torn_and_foreign_states_are_skipped_with_a_warning(tmp_path):
    done = python('''
        folder = Path(sys.argv[1])
        whole = run(folder/'a'); states = sorted((folder/'a').glob('state-*.pt'))
        states[-1].write_bytes(states[-1].read_bytes()[:5000]) # torn: the one before it serves
        (folder/'a/state-99999999.pt').write_bytes(b'') 
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always'); again = run(folder/'a')
        print(len(states), whole == again, sum('not a whole checkpoint' in str(w.message) for w in said))
        foreign = torch.load(sorted((folder/'a').glob('state-*.pt'))[-1], weights_only=True); foreign['facts']['seed'] = 9
        (folder/'b').mkdir(); torch.save(foreign, folder/'b/state-00000120.pt')
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always'); other = run(folder/'b')
        print(whole == other, sum('belongs to another run' in str(w.message) for w in said))
    ''', tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ['2', 'True', '2', 'True', '1'], done.stdout

def test_folder_without_permission_is_one_clear_error(tmp_path):
    (tmp_path/'file').write_text('not a folder')
    done = python("run(Path(sys.argv[1]))", tmp_path/'file'/'run')
    assert done.returncode != 0 and 'cannot write' in done.stderr
