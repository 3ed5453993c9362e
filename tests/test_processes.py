"Two processes train as one does: the same global batch and seed give the same losses and weights, also after a kill."
import json, os, subprocess, sys, textwrap

import pandas as pd
import pytest
import torch
from conftest import ROOT, Forks
from sar_repro.engine.files import load_tensors
from test_cli import notebook

SCRIPT = textwrap.dedent('''
    import os, signal, socket, sys, time
    from pathlib import Path
    import accelerate, torch
    from sar_repro.engine.core import ModelConfig, TrainConfig
    from sar_repro.csfl import sar_loss
    from sar_repro.strategies import METHODS
    from sar_repro.scale_ar import FlexVAR
    from sar_repro.tokenizer import Codebook
    from sar_repro.tokenizer import TokenData
    from sar_repro.jobs.runs import train_run

    def Toy(n=33, scales=(1, 2, 3), vocab=32): # 33: the last step has one sample, so one process gets none
        tokens = torch.randint(vocab, (n, 2, 14), generator=torch.Generator().manual_seed(0)).short()
        torch.manual_seed(0)
        return TokenData(tokens, torch.arange(n) % 3, scales, Codebook(vocab, 8).requires_grad_(False), name='toy', stamp='toy', tokenizer='toy')

    def work(folder, sf_scales='all', micro=0, loss_fn=None, share=1., method='sar'):
        torch.set_num_threads(1); torch.manual_seed(1)
        model = FlexVAR(ModelConfig(depth=2, embed_dim=64, num_heads=1, vocab_size=32, latent_channels=8, num_classes=3, scales=(1, 2, 3), pos_side=4, drop_path=0.1))
        cfg = TrainConfig(epochs=2, batch_size=8, lr=1e-3, precision='fp32', rollout_guidance=1.2, gamma=0.5, sf_scales=sf_scales, micro_batch=micro, sf_share=share, method=method)
        METHODS[method] = loss_fn or METHODS[method] # it stands in for the loss of that name; this is a process of its own
        train_run(model, Toy(), METHODS[method], cfg, folder, held=Toy(), save_every=3)
        return model

    def free_port():
        with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]

    def team(processes, job): # forks, so that the libraries are loaded once for all runs; exit codes
        port, pids = free_port(), []
        for rank in range(processes):
            if pid := os.fork(): pids.append(pid); continue
            if processes > 1: os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes), LOCAL_WORLD_SIZE=str(processes), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
            signal.alarm(600) # processes that wait for each other for ever
            try: job(rank)
            except BaseException as e: print(rank, type(e).__name__, e, file=sys.stderr, flush=True); os._exit(1)
            os._exit(0)
        return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]

    def must(processes, *args, **more):
        codes = team(processes, lambda rank: work(*args, **more))
        assert not any(codes), codes
''')

forks = Forks(SCRIPT, CUDA_VISIBLE_DEVICES='')

def python(code, *args):
    done = forks(textwrap.dedent(code), *args)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout

def read(folder): return pd.read_csv(folder/'log.csv'), load_tensors(folder/'model.safetensors')[0]

def same(a, b, tolerance=1e-5):
    pd.testing.assert_frame_equal(a[0], b[0], atol=tolerance, rtol=tolerance, check_like=True)
    for k, v in a[1].items(): assert torch.allclose(v, b[1][k], atol=tolerance, rtol=tolerance), k

def test_two_processes_and_micro_batches_equal_one(tmp_path):
    python('''
        folder = Path(sys.argv[1])
        must(1, folder/'one'); must(1, folder/'micro', micro=3); must(2, folder/'two', micro=2)
        must(1, folder/'one-last', 'last'); must(2, folder/'two-last', 'last') # the released pass 2
        must(1, folder/'one-share', share=0.3); must(2, folder/'two-share', share=0.3, micro=3) # pass 2 for some pictures: one process may have none of them in a micro-batch
    ''', tmp_path)
    for name in ('micro', 'two'): same(read(tmp_path/'one'), read(tmp_path/name))
    same(read(tmp_path/'one-last'), read(tmp_path/'two-last')); same(read(tmp_path/'one-share'), read(tmp_path/'two-share'))

WHOLE = textwrap.dedent('''
    import pandas as pd
    from sar_repro.jobs.findings import draw_job, exposure, judge_job, record_job
    from sar_repro.jobs.plan import load_job, plan_job
    from sar_repro.train import heldout_loss

    def dying(loss_fn, at): # the third step of four; there are states of the first two
        def loss(model, batch, cfg, n=[0]):
            n[0] += 1
            if n[0] == at: time.sleep(1); os.kill(os.getpid(), signal.SIGKILL)
            yield from loss_fn(model, batch, cfg)
        loss.passes, loss.shares = loss_fn.passes, getattr(loss_fn, 'shares', False)
        return loss

    def whole(folder, recipe, die=None): # all that 07_train does with its parameters: load, before, train, after, judge, record
        torch.set_num_threads(1)
        job = load_job(plan_job(dict(size='mini', budget='smoke', precision='fp32', recipe=recipe, out_dir=str(folder), batch_size=8)))
        measure = lambda: heldout_loss(job.model, job.held, precision='fp32', copies_apart=True)
        found, gaps, samples = dict(before=measure()), [exposure(job, 'before')], dict(before=draw_job(job, 'before'))
        method = job.train.method
        if die: METHODS[method] = dying(METHODS[method], die) # it stands in for the loss of that name
        log = train_run(job.model, job.data, METHODS[method], job.train, job.out, held=job.held, save_every=1)
        found['after'], samples['after'] = measure(), draw_job(job, 'after')
        record_job(job, log, found, pd.concat([*gaps, exposure(job, 'after')]), judge_job(job, samples))
''')

def record(folder): return json.loads(next(p for p in folder.glob('*.json') if p.name != 'run.json').read_text())

def equal(one, other, *path):
    if isinstance(one, dict): assert one.keys() == other.keys(), path; [equal(v, other[k], *path, k) for k, v in one.items()]
    elif isinstance(one, list): [equal(*pair, *path, i) for i, pair in enumerate(zip(one, other, strict=True))]
    else: assert other == pytest.approx(one, rel=1e-5, abs=2e-5) if isinstance(one, float) else one == other, (path, one, other) # records have five digits

def test_the_whole_job_in_two_processes_is_that_of_one(tmp_path):
    python(WHOLE + textwrap.dedent('''
        folder = Path(sys.argv[1])
        def run(n, name, recipe, ends=0, **how): assert team(n, lambda rank: whole(folder/name, recipe, **how)) == [ends]*n, (n, name)
        for recipe in ('paper', 'released'):
            for n in (1, 2): run(n, f'{recipe}-{n}', recipe)
            os.environ |= dict(ACCELERATE_USE_FSDP='true', FSDP_VERSION='2')
            run(2, f'{recipe}-shards', recipe)
            os.environ['ACCELERATE_USE_FSDP'] = 'false'
        run(2, 'paper-killed', 'paper', ends=-9, die=3)
        run(1, 'paper-killed', 'paper')
    '''), tmp_path)
    for recipe, others in dict(paper=('2', 'shards', 'killed'), released=('2', 'shards')).items():
        one = record(tmp_path/f'{recipe}-1')
        assert one['processes'] == 1 and len(one['distances']) == 2 and one['gap_KL_bits']
        for name in others:
            other = record(tmp_path/f'{recipe}-{name}')
            assert other['processes'] == (1 if name == 'killed' else 2)
            for k in ('heldout', 'heldout_mean', 'gap_KL_bits', 'distances', 'train', 'n'): equal(one[k], other[k], name, k)
            pd.testing.assert_frame_equal(read(tmp_path/f'{recipe}-1')[0], read(tmp_path/f'{recipe}-{name}')[0], atol=1e-5, rtol=1e-5, check_like=True)

def test_chains_of_posterior_are_the_same_on_two_processes_and_after_a_kill(tmp_path):
    python('''
        folder = Path(sys.argv[1])
        from sar_repro.posterior import Posterior
        class Dying(Posterior):
            def prepare(self, model, data):
                made = super().prepare(model, data); made.__class__ = Dying; return made
            def exchange(self, acc, mine):
                super().exchange(acc, mine); Dying.steps += 1
                if Dying.steps == 5: time.sleep(1); os.kill(os.getpid(), signal.SIGKILL) # in the last step of the first epoch; the state is of step 3
        Dying.steps = 0
        must(1, folder/'one', method='posterior'); must(2, folder/'two', method='posterior', micro=2)
        assert team(1, lambda rank: work(folder/'killed', loss_fn=Dying(), method='posterior')) == [-9]
        must(1, folder/'killed', method='posterior')
    ''', tmp_path)
    one, two, killed = (read(tmp_path/name) for name in ('one', 'two', 'killed'))
    assert one[0].moved_1x1.iloc[-1] > 0 # some chains did move
    same(one, two); chains = [torch.load(sorted((tmp_path/name).glob('state-*.pt'))[-1], weights_only=True)['loss']['codes'] for name in ('one', 'two', 'killed')]
    assert torch.equal(chains[0], chains[1]) and torch.equal(chains[0], chains[2])
    assert (tmp_path/'one/log.csv').read_bytes() == (tmp_path/'killed/log.csv').read_bytes()
    for k, v in one[1].items(): assert torch.equal(v, killed[1][k]), k

def test_totals_go_by_name_where_each_process_draws_its_own_schedule(tmp_path):
    out = python('''
        folder, seen = Path(sys.argv[1]), []
        from sar_repro.jobs import runs
        def job(rank, name, scales):
            class Drawn(TokenData): # the first steps draw as many scales in each process, but others; then their numbers differ
                def batch(self, ids, seed=0, epoch=None, device=None, step=0):
                    made = super().batch(ids, seed, epoch, device, step)
                    own = scales[min(step, 2)][rank]
                    made.scales, made.tokens = own, made.tokens[:, :sum(p*p for p in own)]
                    return made
            torch.manual_seed(1); torch.set_num_threads(1)
            model = FlexVAR(ModelConfig(depth=1, embed_dim=64, num_heads=1, vocab_size=32, latent_channels=8, num_classes=3, scales=(1, 2, 3), pos_side=4))
            cfg = TrainConfig(epochs=1, batch_size=8, lr=1e-3, precision='fp32', method='sar')
            train_run(model, Drawn(**vars(Toy())), METHODS['sar'], cfg, folder/name, save_every=2)
        own = {'others': [[(1, 2), (1, 3)]]*3, 'more': [[(1, 2), (1, 3)], [(1, 2), (1, 2)], [(1, 2, 3), (1, 2)]]}
        for name, scales in own.items(): assert team(2, lambda rank: job(rank, name, scales)) == [0, 0]
    ''', tmp_path)
    for name in ('others', 'more'):
        log = pd.read_csv(tmp_path/name/'log.csv').iloc[0]
        assert {'tf_1x1', 'tf_2x2', 'tf_3x3', 'csf_2x2', 'csf_3x3'} <= set(log.index) and log.filter(like='tf').between(2, 6).all(), log

TOY = """import os, signal
from pathlib import Path
from sar_repro.engine.machine import team
we = team()
Path(f'{we.process_index}-of-{we.num_processes}').touch()
we.wait_for_everyone()
if we.process_index and Path('die').exists(): os.kill(os.getpid(), signal.SIGKILL)
we.wait_for_everyone()"""

def launched(*words, cwd):
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', SAR_WORK=str(cwd))
    return subprocess.run([sys.executable, '-m', *words], env=env, cwd=cwd, capture_output=True, text=True, timeout=300)

def test_torchrun_runs_a_notebook_in_each_process_and_ends_all_when_one_is_killed(tmp_path):
    path = notebook(tmp_path, 'x = 1', TOY)
    command = 'torch.distributed.run', '--nproc-per-node', '2', '--master-port', '29611', '-m', 'sar_repro', 'run', str(path)
    done = launched(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {p.name for p in tmp_path.glob('*-of-*')} == {'0-of-2', '1-of-2'}
    assert [p.name for p in (tmp_path/'runs/notebooks').iterdir()] == ['toy.ipynb'] and done.stdout.count('executed notebook') == 1
    (tmp_path/'die').touch()
    done = launched(*command, cwd=tmp_path)
    assert done.returncode and "the notebook's process died" in done.stderr, done.stderr[-3000:]
    assert 'another process of this run ended' in done.stderr or 'stopped; run the same command again to resume' in done.stderr, done.stderr[-3000:]

def test_accelerate_starts_two_processes_on_a_cpu(tmp_path):
    done = launched('accelerate.commands.launch', '--cpu', '--num_processes', '2', '--main_process_port', '29612', '-m', 'sar_repro', '--version', cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.count('sar_repro ') == 2, (done.stdout, done.stderr[-2000:])
    refused = launched('torch.distributed.run', '--nproc-per-node', '2', '--master-port', '29613', '-m', 'sar_repro', 'sample', cwd=tmp_path)
    assert refused.returncode and '2 processes would each do `sar sample` as a whole' in refused.stderr

def test_gradients_travel_once_a_step(tmp_path):
    out = python('''
        folder, sent = Path(sys.argv[1]), []
        from torch.nn.parallel import DistributedDataParallel as DDP
        def hook(processes, bucket):
            sent.append(bucket.buffer().numel())
            return torch.distributed.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda f: f.value()[0]/processes)
        made = DDP.__init__
        def counted(self, *args, **kwargs): made(self, *args, **kwargs); self.register_comm_hook(2, hook)
        def job(rank):
            DDP.__init__ = counted
            model = work(folder, micro=2) # 10 steps, of up to two micro-batches with two losses each
            if not rank: print(sum(sent)/sum(p.numel() for p in model.parameters()), flush=True)
        assert team(2, job) == [0, 0]
    ''', tmp_path/'run')
    assert float(out) == 10, out

def test_killed_processes_resume_with_the_log_and_weights_of_an_undisturbed_run(tmp_path):
    python('''
        folder = Path(sys.argv[1])
        def dying(model, batch, cfg, n=[0]):
            n[0] += 1
            if n[0] == 5: time.sleep(1); os.kill(os.getpid(), signal.SIGKILL) # in the last step of the first epoch; the state is of step 3
            yield from sar_loss(model, batch, cfg)
        dying.passes = 2
        must(2, folder/'whole')
        for name in ('shared', 'apart'):
            assert team(2, lambda rank: work(folder/name, loss_fn=dying)) == [-9, -9]
            assert [p.name for p in (folder/name).glob('state-*.pt')] == ['state-00000003.pt']
        must(2, folder/'shared')
        assert team(2, lambda rank: work(folder/('apart', 'elsewhere')[rank])) == [0, 0] # a process that does not see the first one's folder
        assert not (folder/'elsewhere').exists() # only the first one writes
    ''', tmp_path)
    for name in ('shared', 'apart'):
        assert (tmp_path/'whole/log.csv').read_bytes() == (tmp_path/name/'log.csv').read_bytes()
        for k, v in read(tmp_path/'whole')[1].items(): assert torch.equal(v, read(tmp_path/name)[1][k]), k

def test_notebook_launcher_trains_a_size_with_two_processes(tmp_path):
    out = python('''
        from accelerate import notebook_launcher
        from sar_repro.jobs.plan import train_size
        import pickle; assert pickle.loads(pickle.dumps(train_size)) is train_size
        for n, folder in zip((1, 2), sys.argv[1:]):
            if n == 1: assert not team(1, lambda rank: train_size('tiny', 'emoji64', folder, 12, dict(method='tf', epochs=1, batch_size=6, precision='fp32')))[0] # in a fork: no Accelerator may be there before a launch
            else: notebook_launcher(train_size, ('tiny', 'emoji64', folder, 12, dict(method='tf', epochs=1, batch_size=6, precision='fp32')), num_processes=2, use_port=str(free_port()))
    ''', tmp_path/'one', tmp_path/'two')
    assert 'Launching training on 2' in out
    (log, weights), (log2, weights2) = read(tmp_path/'one'), read(tmp_path/'two')
    pd.testing.assert_frame_equal(log, log2, atol=1e-4, rtol=1e-4)
    for k, v in weights.items(): assert (v - weights2[k]).abs().mean() < 1e-6, k # AdamW's first steps go by the sign: where a gradient is nearly nothing, rounding decides

def test_sharded_weights_give_the_losses_of_plain_ones_and_go_on_with_any_number(tmp_path):
    python('''
        folder, use = Path(sys.argv[1]), lambda on: os.environ.update(ACCELERATE_USE_FSDP='true' if on else 'false')
        from sar_repro.jobs import runs
        real = runs.sharded
        def noted(model, acc):
            net = real(model, acc)
            assert all(type(p).__name__ == 'DTensor' for p in net.parameters())
            (folder/'sharded').touch()
            return net
        runs.sharded = noted
        def dying(model, batch, cfg, n=[0]):
            n[0] += 1
            if n[0] == 9: time.sleep(1); os.kill(os.getpid(), signal.SIGKILL) # in the fifth step, of two micro-batches each; the state is of step 3
            yield from sar_loss(model, batch, cfg)
        dying.passes = 2
        def stopped(processes, name): assert team(processes, lambda rank: work(folder/name, micro=4//processes, loss_fn=dying)) == [-9]*processes, name
        must(1, folder/'one'); stopped(1, 'one-then-shards')
        assert not (folder/'sharded').exists()
        use(True); must(2, folder/'shards', micro=2); stopped(2, 'shards-then-one'); must(2, folder/'one-then-shards', micro=3)
        assert (folder/'sharded').exists()
        use(False); must(1, folder/'shards-then-one')
    ''', tmp_path)
    for name in ('shards', 'one-then-shards', 'shards-then-one'): same(read(tmp_path/'one'), read(tmp_path/name))

def test_two_processes_share_the_pictures_of_a_reference(tmp_path):
    import numpy as np
    from PIL import Image
    rng = np.random.default_rng(0)
    (tmp_path/'real/a').mkdir(parents=True)
    for i in range(9): Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((45, 40)).save(tmp_path/f'real/a/{i}.png')
    python('''
        folder = Path(sys.argv[1])
        from sar_repro.jobs.published import make_reference_stats
        def job(rank): make_reference_stats(folder/'real', folder/f'{os.environ.get("WORLD_SIZE", 1)}.npz', 32, team=accelerate.PartialState(cpu=True))
        for n in (1, 2): assert not any(team(n, job))
    ''', tmp_path)
    one, two = (dict(np.load(tmp_path/f'{n}.npz')) for n in (1, 2))
    assert one['n'] == two['n'] == 9 and one['network'] == two['network']
    for k in ('mu', 'sigma'): np.testing.assert_allclose(one[k], two[k], atol=1e-6)
