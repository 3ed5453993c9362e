"A d16 checkpoint of published names and shapes: loads, draws, is saved and loaded again; and what is said without one."
import json
import pytest, torch
from conftest import ROOT, sar, sar_process
from sar_repro.engine.core import SIZES, SarError
from sar_repro.engine.files import load_tensors, save_tensors
from sar_repro.scale_ar import sample
from sar_repro.models import load_model, model_meta
from sar_repro.models import load_tokenizer

def names(kind): return json.loads((ROOT/f'data/golden/{kind}_state_dict.json').read_text())

def write(kind, path, *nest, **change):
    "Random weights of the published names and shapes, nested as the published files are."
    g = torch.Generator().manual_seed(0)
    state = {k: torch.randn(change.get(k, shape), generator=g)*0.02 for k, shape in names(kind).items()}
    for k in reversed(nest): state = {k: state, 'epoch': 179}
    torch.save(state, path)

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('published')
    write('flexvae', folder/'FlexVAE.pth', 'model')
    write('flexvar_d16', folder/'FlexVARd16-epo179.pth', 'trainer', 'var_wo_ddp')
    return folder

def test_d16_loads_samples_saves_and_reloads(files, tmp_path):
    vae, model = load_tokenizer('d16', files/'FlexVAE.pth'), load_model('d16', files/'FlexVARd16-epo179.pth')
    assert round(sum(p.numel() for p in model.parameters())/1e5) == 3156 and sum(p.numel() for p in vae.parameters()) == 72_049_827
    spec, labels = SIZES['d16'], torch.tensor([207])
    pictures = sample(model, vae, labels, seed=3, guidance=spec.guidance, top_k=spec.top_k, top_p=spec.top_p)
    assert pictures.shape == (1, 3, 256, 256) and pictures.dtype == torch.uint8 and pictures.float().std() > 0
    save_tensors(tmp_path/'d16.safetensors', model.state_dict(), **model_meta(model.cfg))
    again = load_model('d16', tmp_path/'d16.safetensors')
    for (name, a), b in zip(model.state_dict().items(), again.state_dict().values()): assert torch.equal(a, b), name
    with pytest.raises(SarError, match='blocks.*has shape.*this model wants.*depth 16 and width 1024, which is size d16: pass that size|has shape .* which is size d16'): load_model('d20', files/'FlexVARd16-epo179.pth')

def test_the_class_count_follows_the_weights_and_nothing_else_does(tmp_path):
    write('flexvar_d16', tmp_path/'few.pth', **{'class_emb.weight': [11, 1024]})
    assert load_model('d16', tmp_path/'few.pth').cfg.num_classes == 10
    write('flexvar_d16', tmp_path/'odd.pth', 'model', **{'head.weight': [4096, 1024], 'head.bias': [4096]})
    with pytest.raises(SarError, match=r'head.weight has shape \(4096, 1024\), this model wants \(8912, 1024\); .*trained with another tokenizer'): load_model('d16', tmp_path/'odd.pth')

def test_weights_of_another_size_are_named_by_what_differs(tmp_path):
    from dataclasses import replace
    from sar_repro.scale_ar import FlexVAR
    from sar_repro.models import find_size
    tiny, path = SIZES['tiny'].model, tmp_path/'w.pth'
    def said(state, size='tiny'):
        torch.save(state, path)
        with pytest.raises(SarError) as e: load_model(size, path)
        return str(e.value)
    for change, words in ((dict(depth=3), 'depth 3 (here 4), which is none'), (dict(depth=5), 'depth 5 (here 4)'), (dict(num_heads=6), 'heads 6 (here 3)'), (dict(pos_side=8), 'side of the position table 8 (here 16)'),
                          (dict(vocab_size=99), 'trained with another tokenizer: codes 99 (here 2048)')):
        assert words in said(FlexVAR(replace(tiny, **change)).state_dict()), change
    with pytest.raises(SarError, match='none of the sizes'): find_size(path)
    assert load_model(None, path).cfg.vocab_size == 99
    whole = FlexVAR(tiny).state_dict()
    for name in ('head.weight', 'word_embed.weight', 'blocks.0.ffn.fc1.weight', 'class_emb.weight', 'pos_1LC', 'blocks.0.attn.scale_mul_1H11'):
        assert f'w.pth: there is no tensor {name}' in said({k: v for k, v in whole.items() if k != name})
    assert 'nor any other block' in said({k: v for k, v in whole.items() if not k.startswith('blocks')})
    assert 'its sizes are right' in said({k: v for k, v in whole.items() if k != 'head.bias'}) and 'expected 4 dimensions' in said(whole | {'pos_1LC': torch.zeros(1)})
    torch.save(dict(trainer=dict(var_wo_ddp=whole)), path); assert find_size(path) == 'tiny' and load_model(None, path).cfg == tiny
    done = sar('sample', path, '--n', '1', '--classes', '0', cwd=tmp_path); assert done.returncode == 0, done.stderr

def test_fetch_without_a_network_says_so_at_once(tmp_path):
    env = dict(HF_ENDPOINT='http://127.0.0.1:9', HF_HUB_DISABLE_TELEMETRY='1', HTTPS_PROXY='', https_proxy='', ALL_PROXY='', all_proxy='')
    done = sar_process('fetch', 'd16', env=env, timeout=30)
    assert done.returncode == 2 and 'FlexVAE.pth cannot be downloaded from jiaosiyu1999/FlexVAR' in done.stderr and 'Traceback' not in done.stderr
    assert sar('fetch', 'tiny').returncode == 2 and 'd16, d20, d24' in sar('fetch', 'tiny').stderr

def test_parity_on_other_shapes_falls_short_when_a_token_differs(tmp_path):
    tensors, meta = load_tensors(ROOT/'data/golden/flexvar_small.safetensors')
    save_tensors(tmp_path/'x.safetensors', tensors | {'gen.sampled.tokens': tensors['gen.sampled.tokens'].roll(1, 1)}, **meta)
    done = sar('parity', tmp_path/'x.safetensors')
    assert done.returncode == 1 and 'FALLS SHORT' in done.stdout and done.stdout.count('pass') == len(tensors) - 4
    assert sar('parity', ROOT/'data/golden/flexvar_small.safetensors').returncode == 0

def test_parity_goes_on_after_a_file_that_cannot_be_compared(tmp_path):
    golden, _ = ROOT/'data/golden/flexvar_small.safetensors', (tmp_path/'bad.safetensors').write_bytes(b'torn')
    tensors, meta = load_tensors(golden)
    save_tensors(tmp_path/'more.safetensors', tensors | {'a.tensor.whose.name.is.longer.than.forty.characters': torch.zeros(1)}, **meta)
    done = sar('parity', tmp_path/'bad.safetensors', golden)
    assert done.returncode == 2 and 'bad.safetensors is not a whole safetensors file' in done.stderr and done.stdout.count('pass') == len(tensors) - 3 and str(golden) in done.stdout
    both = sar('parity', tmp_path/'bad.safetensors', tmp_path/'more.safetensors', golden)
    columns = {max(l.find('pass'), l.find('FALLS SHORT')) for l in both.stdout.split(str(golden))[0].splitlines() if l.endswith(('pass', 'SHORT'))}
    assert both.returncode == 1 and both.stdout.count('FALLS SHORT') == 1 and len(columns) == 1 # long names do not break the table

def test_evaluate_by_the_published_protocol_resumes_and_says_what_it_did(tmp_path):
    from PIL import Image
    from sar_repro.data import load_dataset
    (tmp_path/'real').mkdir()
    for i, p in enumerate(load_dataset('emoji64', 32, 'test', limit=40).images): Image.fromarray(p.permute(1, 2, 0).numpy()).save(tmp_path/f'real/{i:02}.png')
    how = ['evaluate', '--reference', 'real', '--n', '30', '--samples', 'drawn', '--out', 'numbers.json']
    first = sar(*how, cwd=tmp_path); assert first.returncode == 0, first.stderr
    numbers = json.loads((tmp_path/'numbers.json').read_text())
    assert (numbers['n'], numbers['n_reference'], numbers['reference']) == (30, 40, 'real') and numbers['FD-EffNet'] > 0 and 'protocol' not in numbers
    shard = next((tmp_path/'drawn').glob('shard-*.npy')); whole = shard.read_bytes(); shard.write_bytes(whole[:-7])
    assert sar(*how, cwd=tmp_path).returncode == 0 and shard.read_bytes() == whole
    again = json.loads((tmp_path/'numbers.json').read_text())
    assert again['FD-EffNet'] == numbers['FD-EffNet']
