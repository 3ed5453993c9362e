"`sar evaluate` of anything against anything: torch-fidelity's numbers, nothing drawn twice, and what is said of bad input."
import json
from functools import partial

import numpy as np
import pytest, torch
from conftest import sar
from PIL import Image
from sar_repro.data import load_dataset
from sar_repro.jobs import judge
from sar_repro.sampling import pack_npz

@pytest.fixture
def small(tmp_path, monkeypatch):
    "A folder to work in, where data sets have 200 pictures a part, and every call of `sample` is counted."
    drawn, real, look = [], judge.load_dataset, judge._block
    monkeypatch.setenv('SAR_WORK', str(tmp_path/'work'))
    monkeypatch.setattr(judge, 'load_dataset', partial(real, limit=200))
    counted = __import__('sar_repro.sampling').sampling.sample
    monkeypatch.setattr('sar_repro.sampling.sample', lambda *a, **k: drawn.append(len(a[2])) or counted(*a, **k))
    return tmp_path, drawn

def run(folder, *words):
    done = sar('evaluate', *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout

def pictures(folder, images):
    folder.mkdir(parents=True)
    for i, p in enumerate(images): Image.fromarray(p.permute(1, 2, 0).numpy()).save(folder/f'{i:03}.png')

def test_a_foreign_npz_against_a_folder_agrees_with_torch_fidelity(tmp_path):
    import torch_fidelity
    from sar_repro.evaluate import feature_extractor
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    images = load_dataset('emoji64', 32, 'test', limit=140).images
    pictures(tmp_path/'theirs', images[:70])
    pictures(tmp_path/'real', images[70:])
    np.savez(tmp_path/'theirs.npz', arr_0=images[:70].permute(0, 2, 3, 1).numpy(), arr_1=np.zeros(70, int)) # as ADM's sampler writes them
    said = run(tmp_path, 'theirs.npz', '--reference', 'real', '--out', 'a.json')
    ours = json.loads((tmp_path/'a.json').read_text())
    assert 'FD-EffNet' in said and (ours['n'], ours['n_reference'], ours['reference']) == (70, 70, 'real')
    run(tmp_path, 'theirs', '--reference', 'real', '--out', 'b.json') # a folder of the same pictures
    again = json.loads((tmp_path/'b.json').read_text())
    assert {k: v for k, v in again.items() if 'Eff' in k} == {k: v for k, v in ours.items() if 'Eff' in k}

    class Small(FeatureExtractorBase): # our network under torch-fidelity's own roof
        def __init__(self, name, features_list, **how):
            super().__init__(name, features_list)
            self.net = feature_extractor()[0]
        def forward(self, x): return tuple(dict(zip(('pooled', 'logits'), self.net(x)))[k] for k in self.features_list)
        @staticmethod
        def get_provided_features_list(): return 'pooled', 'logits'
        @staticmethod
        def get_default_feature_layer_for_metric(metric): return 'logits' if metric == 'isc' else 'pooled'
        @staticmethod
        def can_be_compiled(): return False
    torch_fidelity.register_feature_extractor('small', Small)
    theirs = torch_fidelity.calculate_metrics(input1=str(tmp_path/'theirs'), input2=str(tmp_path/'real'), fid=True, isc=True, kid=True, prc=True, feature_extractor='small',
        kid_subsets=1, kid_subset_size=70, cuda=torch.cuda.is_available(), cache=False, verbose=False, save_cpu_ram=True)
    for name, key in (('FD-EffNet', 'frechet_inception_distance'), ('IS-EffNet', 'inception_score_mean'), ('IS-EffNet sd', 'inception_score_std'), ('precision', 'precision'), ('recall', 'recall')):
        assert abs(ours[name] - theirs[key]) <= 1e-6 * max(1, abs(theirs[key])), (name, ours[name], theirs[key])
    assert abs(ours['KID x1000']/theirs['kernel_inception_distance_mean'] - 1000) < 1e-2 # they add float32

def test_samples_that_are_there_are_not_drawn_again(small):
    folder, drawn = small
    run(folder, '--size', 'mini', '--n', '40', '--out', 'a.json')
    first = [d['FD-class'] for d in json.loads((folder/'a.json').read_text())['distances']]
    assert drawn == [100] # a group is always filled
    run(folder, '--size', 'mini', '--n', '130', '--out', 'b.json')
    assert drawn == [100, 100]
    run(folder, '--size', 'mini', '--n', '40', '--out', 'c.json')
    assert drawn == [100, 100] and [d['FD-class'] for d in json.loads((folder/'c.json').read_text())['distances']] == first
    next((folder/'work/runs').rglob('shard-00001.npy')).unlink()
    run(folder, '--size', 'mini', '--n', '130', '--out', 'b.json')
    assert drawn == [100, 100, 100]

def test_a_sweep_is_a_table_a_figure_and_a_sentence_and_grows(small):
    folder, drawn = small
    sweep = ['--size', 'mini', '--n', '20', '--out', 'sweep.json', '--guidance']
    said = run(folder, *sweep, '0,1', '--top-p', '1,.95')
    record = json.loads((folder/'sweep.json').read_text())
    assert len(drawn) == 4 and 'best of 4 points: guidance' in said and 'another --seed' in said
    assert (record['guidance'], record['top_p']) == ([0, 1], [1, .95]) and set(record['best']) == {'guidance', 'top_p', 'FD-class'}
    assert Image.open(folder/'sweep.png').size > (300, 200)
    rows = (folder/'sweep.csv').read_text().splitlines()
    assert len(rows) == 1 + 3*4 + 3 and rows[0].startswith('guidance,top_k,top_p,pictures,against,FD-class,sFD-class,IS-class')
    run(folder, *sweep, '0,1,2', '--top-p', '.95')
    assert len(drawn) == 5 # one point is new
    run(folder, *sweep, '1', '--out', 'alone.json')
    assert len(drawn) == 5 and not (folder/'alone.csv').exists()
    best = lambda rows: {r['against']: r['FD-class'] for r in rows if r['pictures'] == 'samples' and r.get('guidance', 1) == 1 and r.get('top_p', .95) == .95}
    assert best(json.loads((folder/'alone.json').read_text())['distances']) == best(record['distances'])

def test_what_is_written_for_adm_and_its_shards_are_judged_alike(small):
    folder, drawn = small
    run(folder, '--size', 'mini', '--n', '40', '--samples', 'drawn', '--npz', 'ours.npz', '--out', 'a.json')
    with np.load(folder/'ours.npz') as z: assert z.files == ['arr_0'] and z['arr_0'].shape == (40, 16, 16, 3) and z['arr_0'].dtype == np.uint8
    for what in ('ours.npz', 'drawn'): run(folder, what, '--dataset', 'fashion16', '--n', '40', '--out', f'{what}.json')
    a, b, c = ({d['against']: d['FD-class'] for d in json.loads((folder/f).read_text())['distances'] if d['pictures'] == 'samples'} for f in ('a.json', 'ours.npz.json', 'drawn.json'))
    assert b == c == {k: a[k] for k in ('training', 'held-out')} and len(a) == 3 and drawn == [100]

def test_steps_sides_rejection(small):
    folder, drawn = small
    assert 'the network that chose the samples judges them, too' in run(folder, '--size', 'mini', '--n', '20', '--rejection', '3', '--out', 'r.json')
    record = json.loads((folder/'r.json').read_text())
    assert record['judge_chose'] is True and record['rejection'] == 3 and record['n'] == 20 == record['distances'][0]['n'] and drawn == [100]
    run(folder, '--size', 'mini', '--n', '20', '--steps', '2', '--out', 's.json')
    run(folder, '--size', 'mini', '--n', '20', '--scales', '1,3,6', '--out', 't.json')
    both = [json.loads((folder/f).read_text()) for f in ('s.json', 't.json')]
    assert [r['scales'] for r in both] == [[1, 4], [1, 3, 6]] and [r['features'] for r in both] == ['FD-class', 'FD-EffNet'] # 24 pixels are no mini's

FAULTS = {
    'floats': ('floats.npz --reference real', 'arr_0 is float64'),
    'other arrays': ('names.npz --reference real', 'holds no pictures: expected square ones as arr_0'),
    'torn': ('torn.npz --reference real', 'not a whole npz file'),
    'few': ('few.npz --reference real', 'holds 4 pictures: expected at least 10'),
    'fewer than wanted': ('good.npz --reference real --n 30', 'holds 12 pictures: expected at least 30'),
    'no judge': ('good.npz', 'to be judged against? pass --dataset NAME'),
    'two judges': ('good.npz --reference real --dataset fashion16', 'give one of them'),
    'how they are drawn': ('good.npz --reference real --guidance 2', '--guidance says how samples are drawn, but good.npz'),
    'sizes': ('mixed --reference real', 'pictures of 2 sizes (16x16, 20x20)'),
    'a side that they have not': ('good.npz --reference real --pixels 32', 'holds pictures of 16 pixels, not of 32'),
    'no side': ('real --reference real --pixels 0', '--pixels is 0: expected a whole number from 1'),
    'no picture': ('none --reference real', 'no readable pictures'),
    'few references': ('good.npz --reference four', 'holds 4 pictures: precision and recall'),
    'a list that is none': ('--size mini --guidance 1,,2', "guidance is '': expected a number"),
    'the same twice': ('--size mini --guidance 1,1.0', '--guidance names 1 twice'),
    'several to one file': ('--size mini --guidance 1,2 --npz all.npz', 'expected one setting'),
    'npz by another name': ('--size mini --npz all.png', 'expected a name that ends in .npz'),
    'a table as record': ('--size mini --guidance 1,2 --out all.csv', 'expected a name that ends in .json'),
    'a table of others': ('--size mini --guidance 1,2 --out mine.json', 'mine.csv is there'),
    'an npz of others': ('--size mini --npz names.npz', 'is there and is no npz of samples'),
    'one draw': ('--size mini --rejection 1', '--rejection is 1: expected a whole number from 2'),
    'no classifier': ('--size tiny --rejection 4 --reference real', 'classifier of the model\'s 27 classes'),
    'no mixtures': ('--size mini --more-smooth', 'base flexvar draws codes and mixes none'),
    'sides and steps': ('--size mini --scales 1,4 --steps 2', '--scales names the whole schedule'),
    'other classes': ('--size mini --dataset emoji64', 'knows 10 classes, emoji64 has 27'),
}

@pytest.mark.parametrize('line,words', FAULTS.values(), ids=FAULTS)
def test_what_is_wrong_is_said_before_anything_is_drawn(small, line, words):
    folder, drawn = small
    images = load_dataset('fashion16', 16, 'test', limit=12).images
    pictures(folder/'real', images)
    pictures(folder/'four', images[:4])
    pictures(folder/'mixed', images[:10])
    Image.new('RGB', (20, 20)).save(folder/'mixed/x.png')
    (folder/'none').mkdir()
    (folder/'mine.csv').write_text('a,b\n')
    np.savez(folder/'floats.npz', arr_0=np.zeros((12, 16, 16, 3)))
    np.savez(folder/'names.npz', images=np.zeros((12, 16, 16, 3), np.uint8))
    pack_npz(images, folder/'good.npz')
    pack_npz(images[:4], folder/'few.npz')
    (folder/'torn.npz').write_bytes((folder/'good.npz').read_bytes()[:300])
    before = {p for p in folder.rglob('*') if 'cache' not in p.parts}
    done = sar('evaluate', *line.split(), cwd=folder)
    assert done.returncode == 2 and words in done.stderr and 'Traceback' not in done.stderr, done.stderr
    assert not drawn and {p for p in folder.rglob('*') if 'cache' not in p.parts} - {folder/'work'} == before

def test_statistics_alone_say_what_they_cannot(tmp_path):
    from sar_repro.jobs.published import load_reference
    images = load_dataset('emoji64', 32, 'test', limit=60).images
    real = load_reference(images[:40])
    np.savez(tmp_path/'stats.npz', **real.stats, network='FD-EffNet')
    np.savez(tmp_path/'adm.npz', **real.stats, mu_s=real.spatial['mu'], sigma_s=real.spatial['sigma'], network='FD-EffNet')
    pack_npz(images[40:], tmp_path/'x.npz')
    said = run(tmp_path, 'x.npz', '--reference', 'stats.npz')
    assert 'not measured: sFD-EffNet, KID x1000, KID se, precision, recall' in said
    assert 'not measured: KID x1000' in run(tmp_path, 'x.npz', '--reference', 'adm.npz', '--out', 'b.json')
    assert json.loads((tmp_path/'b.json').read_text())['sFD-EffNet'] > 0

def test_spatial_features_are_those_of_adm():
    from torch_fidelity import feature_extractor_inceptionv3 as theirs
    from unittest.mock import patch
    from sar_repro.evaluate import with_places
    torch.manual_seed(0)
    with patch.object(theirs, 'load_state_dict_from_url'), patch.object(theirs.FeatureExtractorInceptionV3, 'load_state_dict'):
        net = theirs.FeatureExtractorInceptionV3('x', ['2048', 'logits_unbiased'])
    x, seen = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), []
    net.Mixed_6d.register_forward_hook(lambda layer, given, out: seen.append(out)) # its branches side by side, that of one convolution first
    spatial = with_places(net, x)[2]
    assert spatial.shape == (2, 17*17*7) and torch.equal(spatial.view(2, 17, 17, 7), seen[0].permute(0, 2, 3, 1)[..., :7])
