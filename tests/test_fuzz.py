"Hostile input by the hundred: a right result or one SarError, never a traceback, a hang or a silent wrong one. SAR_FUZZ=2000 makes it a long run."
import json, math, os, random, shutil, warnings
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from sar_repro.engine.core import NUMBERS, SarError, TrainConfig, check_numbers, index_uniform
from sar_repro.jobs.notebooks import read_parameters
from sar_repro.csfl import tf_loss
from sar_repro.data import ImageSet, load_dataset
from sar_repro.data import latent_cache
from sar_repro.engine.files import load_checkpoint, load_tensors, read_json, read_weights, save_checkpoint, save_json, save_tensors
from sar_repro.models import load_model, model_meta
from sar_repro.jobs.published import load_reference
from sar_repro.jobs.runs import RunFolder, toy_model
from sar_repro.sampling import ShardSet, sample_shards
from sar_repro.engine.sources import read_idx, read_image

LEAST = 0.1 # share of inputs that is not refused, where half of them are made right
BUDGET = int(os.environ.get('SAR_FUZZ', 60)) # inputs a test
many = settings(max_examples=BUDGET, deadline=None, derandomize=BUDGET < 1000, suppress_health_check=list(HealthCheck), database=None)
junk = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.binary(max_size=6),
    st.sampled_from(['1e-4', '7', ' 3 ', 'nan', '-inf', '1e999', 10**5000, -1, 0, 1, 0.5, 2.0, 'auto', [], {}, (0.9, 0.95)]))
tree = st.recursive(st.none() | st.booleans() | st.integers(-2**70, 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.sampled_from(['config', 'rows', 'method', 'start', 'cells', 'source']), inner, max_size=4), max_leaves=8)

class Tally:
    "Lets a `SarError` pass, and counts what is not refused: a checker that refuses everything would pass these tests."
    def __init__(self): self.tried = self.accepted = 0
    def __enter__(self): self.tried += 1
    def __exit__(self, kind, error, trace):
        self.accepted += kind is None
        return kind is not None and issubclass(kind, SarError)
    def check(self): assert self.tried >= BUDGET/2 and self.accepted >= LEAST*self.tried, f'{self.accepted} of {self.tried} are accepted, expected {LEAST:.0%} or more'

def right(name): # what a number of this name may be
    rule = NUMBERS[name]
    high = min(rule.high, 10**6)
    return st.integers(math.ceil(rule.low) + rule.above, int(high)) if rule.kind is int else st.floats(rule.low, high, exclude_min=rule.above)

def half(one, other): return st.booleans().flatmap(lambda first: one if first else other) # `one_of` would give each branch within them its turn

def drawn(names, most): # one or more of them, each with a right value as often as with junk
    of = lambda name: st.tuples(st.just(name), half(right(name), junk) if name in NUMBERS else junk)
    return st.lists(st.sampled_from(names).flatmap(of), min_size=1, max_size=most).map(dict)

def test_settings_are_in_range_or_refused():
    tally, names = Tally(), [f.name for f in fields(TrainConfig)]
    @many
    @given(drawn(names, 4))
    def each(values):
        with tally:
            cfg = TrainConfig(**values)
            for name in {*names} & NUMBERS.keys():
                value, rule = getattr(cfg, name), NUMBERS[name]
                assert type(value) is rule.kind and rule.low <= value <= rule.high and not (rule.above and value == rule.low)
            assert all(0 <= b < 1 for b in cfg.betas) and cfg.target in ('hard', 'soft', 'truth')
            json.dumps({f.name: getattr(cfg, f.name) for f in fields(cfg)}, allow_nan=False)
    each()
    tally.check()

def test_numbers_are_finite_or_refused():
    tally = Tally()
    @many
    @given(drawn(list(NUMBERS), 3))
    def each(values):
        with tally: assert all(v is None or math.isfinite(v) for v in check_numbers(**values).values())
    each()
    tally.check()

@many
@given(st.integers(-2**63, 2**63 - 1), st.integers(-2**63, 2**63 - 1))
def test_every_seed_has_its_own_numbers(a, b):
    assert (a == b) == index_uniform(a, [0, 1], 8).equal(index_uniform(b, [0, 1], 8))

def test_labels_are_classes_or_refused():
    tally = Tally()
    @many
    @given(st.lists(half(st.sampled_from([0, 1, 0., 1.]), junk), min_size=1, max_size=4))
    def each(labels):
        with tally:
            data = ImageSet('x', 'train', 2, ['a', 'b'], labels, torch.zeros(len(labels), 3, 2, 2, dtype=torch.uint8))
            assert data.labels.tolist() == [int(v) for v in labels] and set(data.labels.tolist()) <= {0, 1}
    each()
    tally.check()

def written(path, value): # as JSON, or as text that is none
    with suppress(ValueError, TypeError): return path.write_text(value if isinstance(value, str) else json.dumps(value))
    path.write_text('{')

def ours_or(value): # a file of ours with one field changed, or something else
    changed = lambda keys: st.tuples(st.sampled_from(keys), tree).map(lambda kv: {**value, kv[0]: kv[1]})
    return half(changed(['more']), half(changed(list(value)), tree))

def test_json_of_own_files(tmp_path_factory):
    run, shards, note = Tally(), Tally(), Tally()
    cell = dict(cell_type='code', metadata=dict(tags=['parameters']), source='a = 1')
    @many
    @given(ours_or(dict(lr=1, method='tf', start='x')), ours_or(dict(n=2, per_shard=1, side=8)), ours_or(dict(cells=[cell])))
    def each(a, b, c):
        d = tmp_path_factory.mktemp('j')
        written(d/'run.json', a), written(d/'shards.json', b), written(d/'note.ipynb', c)
        with run, warnings.catch_warnings(): # a foreign folder is refused, or it is ours
            warnings.simplefilter('ignore')
            RunFolder(d, dict(lr=1, method='tf', start='x')).resume()
        with shards: assert ShardSet(d).n == len(ShardSet(d))
        with note: assert isinstance(read_parameters(d/'note.ipynb'), dict)
        assert read_json(d/'run.json', method=str, start=str) is None or isinstance(a, dict) or isinstance(a, str)
    each()
    for tally in (run, shards, note): tally.check()

def damaged(body, rng): # flipped bits, a cut, a hole, or bytes of something else
    body, kind = bytearray(body), rng.randrange(4)
    if kind == 0:
        for _ in range(rng.choice([1, 1, 2, 20])): body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    if kind == 1: del body[rng.randrange(len(body)):]
    if kind == 2: del body[(at := rng.randrange(len(body))):at + rng.randrange(1, 40)]
    if kind == 3: body[:rng.randrange(1, 64)] = rng.randbytes(rng.randrange(0, 64))
    return bytes(body)

@pytest.fixture(scope='module')
def sources(tmp_path_factory):
    "Files of every kind that is read: name -> (path, how to read it, what it must give if it is read)."
    d, model = tmp_path_factory.mktemp('kinds'), toy_model()
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    save_tensors(d/'own.safetensors', weights, **model_meta(model.cfg))
    torch.save(weights, d/'torch.pth')
    save_checkpoint(d/'state.pt', dict(model=weights, step=3, facts=dict(a=1)))
    np.savez(d/'stats.npz', mu=np.zeros(1280), sigma=np.eye(1280)[:, :], n=3)
    pixels = np.random.default_rng(0).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    for ending in ('png', 'jpg', 'gif', 'bmp', 'tiff', 'webp'): Image.fromarray(pixels).save(d/f'p.{ending}')
    (d/'x-idx').write_bytes(b'\0\0\x08\x03' + b''.join(n.to_bytes(4, 'big') for n in (2, 3, 3)) + bytes(range(18)))
    same = lambda got: all(torch.equal(got[k], weights[k]) for k in weights)
    found = dict(own=(d/'own.safetensors', lambda p: load_tensors(p)[0], same), state=(d/'state.pt', load_checkpoint, lambda s: same(s['model']) and s['step'] == 3),
        model=(d/'own.safetensors', lambda p: load_model(None, p).state_dict(), same), torch=(d/'torch.pth', lambda p: read_weights(p)[0], None), idx=(d/'x-idx', read_idx, None))
    return found | {e: (d/f'p.{e}', read_image, None) for e in ('png', 'jpg', 'gif', 'bmp', 'tiff', 'webp')}

@pytest.mark.parametrize('kind', ['own', 'state', 'model', 'torch', 'idx', 'png', 'jpg', 'gif', 'bmp', 'tiff', 'webp'])
def test_damaged_files(sources, tmp_path, kind):
    path, read, right = sources[kind]
    body, rng, there = path.read_bytes(), random.Random(BUDGET), tmp_path/path.name
    for _ in range(BUDGET//2 if kind == 'model' else BUDGET):
        there.write_bytes(changed := damaged(body, rng))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try: got = read(there)
            except SarError as e: assert str(e) and '\n' not in str(e)
            else: assert right is None or changed == body or right(got), 'a damaged file was believed'

def test_damaged_caches_and_shards(tmp_path):
    x = torch.randint(0, 255, (5, 3, 8, 8), dtype=torch.uint8)
    data, rng = ImageSet('few', 'train', 8, ['a', 'b'], [0, 1, 1, 0, 1], x), random.Random(BUDGET)
    half = lambda v: torch.nn.functional.avg_pool2d(v, 4)
    whole = np.array(latent_cache(data, half, 'k', tmp_path))
    np.savez(tmp_path/'zip', whole) # an archive where an array should be
    shutil.move(tmp_path/'zip.npz', next(tmp_path.glob('latents-*.npy')))
    with pytest.warns(UserWarning, match='set aside, computed again'): assert np.array_equal(latent_cache(data, half, 'k', tmp_path), whole)
    next(tmp_path.glob('*.skipped')).unlink()
    files = list(tmp_path.glob('latents-*'))
    bodies = {f: f.read_bytes() for f in files}
    for _ in range(BUDGET):
        f = rng.choice(files)
        f.write_bytes(damaged(bodies[f], rng))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            assert np.array_equal(latent_cache(data, half, 'k', tmp_path), whole)
        for f in files: f.write_bytes(bodies[f])
