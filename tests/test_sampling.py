"Sampling as users want it: every mode, what is kept, what is counted, and bad input in one sentence."
import numpy as np
import pytest, torch
from PIL import Image
from conftest import ROOT, sar
from sar_repro.engine.core import SIZES, SarError
from sar_repro.data import load_dataset, to_float, to_uint8
from sar_repro.models import load_models
from sar_repro.sampling import class_map, edit, known_tokens, on_canvas, refine, schedule, token_mask, widen
from sar_repro.scale_ar import fit_scales, generate, sample
from sar_repro.tokenizer import reconstruct

USUAL = dict(guidance=1.5, top_p=0.85, precision='fp32')

@pytest.fixture(scope='module')
def here():
    "Tokenizer, model, a few held-out pictures and their classes."
    model, vae = load_models('tiny')
    data = load_dataset('emoji64', 32, 'test', limit=40)
    return vae, model, data.images[::5], data.labels[::5]

def box(n, side=32, a=8, b=24):
    hole = torch.zeros(n, side, side, dtype=torch.bool)
    hole[:, a:b, a:b] = True
    return hole

def rms(a, b, where): return (to_float(a) - to_float(b)).movedim(1, -1)[where].square().mean().sqrt().item()

def same(a, b): return (a == b).float().mean() > 0.95 # up to rounding, which depends on the batch

# what is kept

def test_inpainting_keeps_the_known_part(here):
    vae, model, x, y = here
    painted, plain = edit(model, vae, x, box(len(x)), y, **USUAL), to_uint8(reconstruct(vae, x)[0])
    kept = ~box(len(x), a=4, b=28) # a token and more away from the hole
    assert rms(painted, x, kept) < 1.15*rms(plain, x, kept)
    assert rms(painted, x, box(len(x))) > 1.5*rms(plain, x, box(len(x))) # and the rest is drawn

def test_known_tokens_come_out_as_they_went_in(here):
    vae, model, x, y = here
    tokens, mask = known_tokens(vae, x, box(len(x)), model.cfg.scales)
    got = generate(model, vae.quantize, y, 1.5, top_p=0.85, known=(tokens, mask))
    assert torch.equal(got[mask], tokens[mask]) and not torch.equal(got, tokens)
    finest = ~mask[:, -64:].view(-1, 8, 8)
    assert torch.equal(finest, box(len(x), 8, 2, 6))

def test_known_tokens_of_maps_that_add_up_say_what_is_lacking():
    from sar_repro.engine.core import ModelConfig, TokenizerConfig
    from sar_repro.models import make_model, make_tokenizer
    torch.manual_seed(0)
    vae = make_tokenizer(TokenizerConfig(ch=16, ch_mult=(1, 2), z_channels=8, latent_channels=4, vocab_size=99, enc_blocks=1, dec_blocks=1, groups=8, kind='varvae')).eval().requires_grad_(False)
    torch.nn.init.normal_(vae.quantize.embedding.weight)
    scales, book, n = (1, 2, 4), vae.quantize, 6
    model = make_model(ModelConfig(depth=2, embed_dim=64, num_heads=2, vocab_size=99, latent_channels=4, num_classes=3, pos_side=8, scales=scales, base='var')).eval().requires_grad_(False)
    latent, hole = torch.randn(n, 4, 4, 4), box(n, 8, 4, 8)
    hole[:, :, 4:] = True # the right half is drawn anew
    tokens, mask = book.tokenize(latent, scales), token_mask(hole, scales, 1.)
    made, plain = (generate(model, book, torch.arange(n) % 3, seed=3, known=k) for k in ((tokens, mask, latent), (tokens, mask)))
    assert torch.equal(plain[mask], tokens[mask]) and mask.any() and not mask.all()
    from sar_repro.tokenizer import split_scales
    sums, masks = book.sums(made, scales), split_scales(mask, scales)
    for k, (codes, known) in enumerate(zip(split_scales(made, scales), masks)):
        rest = latent - sums[k - 1] if k else latent
        assert torch.equal(codes[known], book.of_rest(rest, k, scales)[known])
    far = [(book.sums(t, scales)[-1] - latent).movedim(1, -1)[masks[-1].view(n, 4, 4)].square().mean() for t in (made, plain)]
    assert far[0] < 0.9*far[1], far
    drawn = edit(model, vae, torch.randint(256, (n, 3, 8, 8)).byte(), hole, torch.arange(n) % 3, start=1, precision='fp32')
    assert drawn.shape == (n, 3, 8, 8)
    assert refine(model, vae, drawn, torch.arange(n) % 3, 2, precision='fp32').shape == drawn.shape

def test_a_hole_is_not_seen(here):
    vae, model, x, y = here
    spoiled = x.masked_fill(box(len(x))[:, None], 13)
    a, b = (edit(model, vae, p, box(len(p)), y, seed=4, **USUAL) for p in (x, spoiled))
    assert torch.equal(a, b)

def test_outpainting_keeps_the_middle(here):
    vae, model, x, y = here
    small = x[..., 8:24, 8:24]
    canvas, redraw = on_canvas(small, 32)
    around = edit(model, vae, canvas, redraw, y, **USUAL)
    middle, free = box(len(x), a=12, b=20), sample(model, vae, y, **USUAL)
    assert around.shape == x.shape and rms(around, canvas, middle) < 0.6*rms(free, canvas, middle)
    wide = widen(model, vae, x[:2], y[:2], 2, **USUAL)
    assert wide.shape == (2, 3, 32, 64) and torch.equal(wide[..., :32], x[:2])

def test_refinement_goes_from_the_picture_to_a_free_sample(here):
    vae, model, x, y = here
    all_of_it = refine(model, vae, x, y, len(model.cfg.scales), **USUAL)
    assert same(all_of_it, to_uint8(reconstruct(vae, x)[0]))
    assert torch.equal(refine(model, vae, x, y, 0, seed=3, **USUAL), sample(model, vae, y, seed=3, **USUAL))
    tokens = vae.tokenize(vae.encode(to_float(x)), model.cfg.scales)
    got = generate(model, vae.quantize, y, prefix=tokens[:, :14])
    assert torch.equal(got[:, :14], tokens[:, :14])

def test_other_classes_in_the_hole_and_in_regions(here):
    vae, model, x, y = here
    a, b = (edit(model, vae, x, box(len(x)), labels, **USUAL) for labels in (y, (y + 9) % 27))
    assert rms(a, b, box(len(x))) > 2*rms(a, b, ~box(len(x)))
    regions = torch.full((len(x), 32, 32), 3)
    every = class_map(regions, model.cfg.scales)
    alone = sample(model, vae, torch.full_like(y, 3), seed=1, **USUAL)
    assert same(sample(model, vae, every, seed=1, **USUAL), alone)
    regions[:, :, 16:] = 20
    both = sample(model, vae, class_map(regions, model.cfg.scales), seed=1, **USUAL)
    assert not same(both, alone)

# schedules

@pytest.mark.parametrize('scales', [(1, 2, 4), (1, 3, 5), (1, 2, 3, 4, 6, 8, 12), [1, 4, 8]])
def test_what_is_drawn_is_decoded(here, scales):
    vae, model, _, _ = here
    y = torch.tensor([2, 7])
    pictures = sample(model, vae, y, seed=5, scales=scales, **USUAL)
    side = scales[-1]
    assert pictures.shape == (2, 3, 4*side, 4*side)
    tokens = generate(model, vae.quantize, y, 1.5, top_p=0.85, seed=5, scales=scales)
    assert tokens.shape[1] == sum(p*p for p in scales)
    with torch.no_grad(): decoded = to_uint8(vae.decode(tokens[:, -side*side:], side))
    assert same(pictures, decoded)

def test_a_step_fewer_is_fewer_passes_and_tokens(here):
    vae, model, _, _ = here
    seen = []
    handle = model.blocks[0].register_forward_hook(lambda m, args, out: seen.append(out.shape[1]))
    try:
        for steps in range(3, 9):
            scales = schedule(model.cfg, steps)
            generate(model, vae.quantize, torch.tensor([0]), scales=scales)
            assert seen == [p*p for p in scales] and len(scales) == steps
            seen.clear()
    finally: handle.remove()
    tokens = [sum(p*p for p in schedule(model.cfg, s)) for s in range(3, 9)]
    assert tokens == sorted(set(tokens))

def test_published_schedules():
    d24 = SIZES['d24'].model
    assert schedule(d24, 13) == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16) # of the released script
    assert schedule(d24, last=32) == (*d24.scales, 23, 32) and schedule(d24, last=24) == (*d24.scales, 24)

@pytest.mark.parametrize('scales,words', [
    ((1, 4, 2), 'does not rise'), ((1, 1, 2), 'does not rise'), ((1, 2, 17), 'expected at most that'), ((0, 1), 'is 0'),
    ((1, 2.5), 'is 2.5'), ((1, float('nan')), 'is nan'), ((2, 4), 'starts at side 2'), ((), 'expected sides'), ('124', 'expected sides'), (8, 'expected sides'), ((1, 10**5000), 'a side of the schedule is a number of 16,610 bits')])
def test_a_schedule_that_does_not_fit(here, scales, words):
    vae, model, _, y = here
    for call in (lambda: sample(model, vae, y[:1], scales=scales), lambda: generate(model, vae.quantize, y[:1], scales=scales)):
        with pytest.raises(SarError) as e: call()
        assert words in str(e.value) and '\n' not in str(e.value)

def test_too_many_tokens():
    with pytest.raises(SarError, match='4,900 tokens: expected at most 4,096'): fit_scales(tuple(range(1, 25)), SIZES['d16'].model)

# randomness, settings

def test_a_sample_does_not_depend_on_its_batch(here):
    vae, model, x, y = here
    hole, first = box(len(x)), generate(model, vae.quantize, y, known=known_tokens(vae, x, box(len(x)), model.cfg.scales))
    for i in (0, 5):
        one = known_tokens(vae, x[i:i + 1], hole[i:i + 1], model.cfg.scales)
        assert torch.equal(generate(model, vae.quantize, y[i:i + 1], known=one, index=[i]), first[i:i + 1])
    whole, parts = (edit(model, vae, x, hole, y, batch_size=b, **USUAL) for b in (None, 3))
    assert same(whole, parts)
    whole, parts = (refine(model, vae, x, y, 3, batch_size=b, **USUAL) for b in (None, 3))
    assert same(whole, parts)
    regions = class_map(torch.arange(8).view(8, 1, 1).expand(8, 32, 32), model.cfg.scales)
    whole, parts = (sample(model, vae, regions, batch_size=b, **USUAL) for b in (None, 3))
    assert same(whole, parts)

def test_settings_by_scale(here):
    vae, model, _, y = here
    n, book = len(model.cfg.scales), vae.quantize
    plain = generate(model, book, y, 1.5, top_p=0.85)
    assert torch.equal(generate(model, book, y, [1.5*k/(n - 1) for k in range(n)], top_p=[0.85]*n), plain)
    greedy = generate(model, book, y, top_k=[1]*n)
    assert torch.equal(greedy, generate(model, book, y, seed=None))
    assert torch.equal(generate(model, book, y, top_k=[1, 1] + [0]*(n - 2))[:, :5], greedy[:, :5])
    for how, words in ((dict(guidance=[1, 2]), 'guidance has 2 values for 6 scales'), (dict(top_k=[-1]*n), 'top_k is -1'), (dict(top_p=[float('nan')]*n), 'top_p is nan'),
                       (dict(top_p='0.5'*2), 'top_p is')):
        with pytest.raises(SarError) as e: generate(model, book, y, **how)
        assert words in str(e.value)

def test_known_tokens_that_do_not_fit(here):
    vae, model, x, y = here
    tokens, mask = known_tokens(vae, x, box(len(x)), model.cfg.scales)
    for known, words in (((tokens[:, :-1], mask), 'known tokens: got'), ((tokens, mask.long()), 'known mask: got torch.int64'), ((tokens, None), 'known mask: got None'),
                         ((tokens + 2048, mask), 'none of 0 to 2047'), ((tokens.float(), mask), 'torch.float32')):
        with pytest.raises(SarError) as e: generate(model, vae.quantize, y, known=known)
        assert words in str(e.value)

# the command line

@pytest.fixture
def files(tmp_path):
    x = load_dataset('emoji64', 64, 'test', limit=1).images[0].permute(1, 2, 0).numpy()
    Image.fromarray(x).save(tmp_path/'picture.png')
    for name, size, hole in (('mask', 64, (16, 16, 48, 48)), ('other', 32, (8, 8, 24, 24)), ('black', 64, None)):
        grey = Image.new('L', (size, size))
        if hole: grey.paste(255, hole)
        grey.save(tmp_path/f'{name}.png')
    (tmp_path/'text.png').write_text('no picture')
    return tmp_path

@pytest.mark.parametrize('args,side', [
    (['--steps', '3'], 32), (['--scales', '1,2,4', '--guidance', '0,1,2', '--top-p', '1,0.9,0.8', '--top-k', '5'], 16), (['--pixels', '48'], 48), (['--size', '16'], 16),
    (['--edit', 'picture.png', '--mask', 'mask.png'], 32), (['--edit', 'picture.png', '--from-scale', '5'], 32),
    (['--edit', 'picture.png', '--mask', 'mask.png', '--from-scale', '3', '--pixels', '16', '--steps', '4'], 16)], ids=lambda v: ' '.join(v) if isinstance(v, list) else None)
def test_sar_sample(files, args, side):
    done = sar('sample', '--classes', '1,2', '--n', '2', *args, '--plain', cwd=files)
    assert done.returncode == 0, done.stderr
    assert Image.open(files/'samples.png').size == (2*(side + 2) + 2,)*2
    assert done.stdout.startswith('4 images of 2 classes')

def drawn(files, name, *args):
    done = sar('sample', '--size', 'mini', '--classes', 'Bag,1', '--n', '2', '--out', name, *args, cwd=files)
    assert done.returncode == 0, done.stderr
    picture = Image.open(files/name)
    return [np.array(picture.convert('RGB')) for k in range(getattr(picture, 'n_frames', 1)) if picture.seek(k) is None]

def test_a_sheet_is_large_and_named_and_a_film_ends_in_it(files):
    (plain,), (sheet,), (strip,) = drawn(files, 'a.png', '--plain'), drawn(files, 'b.png'), drawn(files, 'c.png', '--film')
    film, larger = drawn(files, 'c.gif', '--film'), drawn(files, 'd.jpg', '--enlarge', '10')[0]
    assert plain.shape == (38, 38, 3) and larger.shape[1] == 2*162 + 2
    first = plain[2:18, 2:18].repeat(8, 0).repeat(8, 1) # enlarged pixel by pixel, below a line with its name
    assert (sheet[30:158, 2:130] == first).all() and (sheet[:28] < 99).any() and sheet.shape[1] == 262
    assert (strip[58:186, 262:390] == first).all() # names, scales, and a column for each of three maps
    assert len(film) == 3 and film[0].shape == (sheet.shape[0] + 28, *sheet.shape[1:]) and abs(film[2][58:186, 2:130].astype(int) - first).mean() < 3
    for name in ('a.webp', 'b.jpeg'): assert drawn(files, name)[0].shape == sheet.shape

@pytest.mark.parametrize('size', ['var-mini', 'hybrid-mini'])
def test_a_film_of_every_base_ends_in_its_sample(size):
    from sar_repro.engine.core import get_size
    from sar_repro.models import make_model, make_tokenizer
    from sar_repro.sampling import Sheet
    spec = get_size(size)
    torch.manual_seed(0)
    model, vae = make_model(spec.model).eval().requires_grad_(False), make_tokenizer(spec.tokenizer).eval().requires_grad_(False)
    film, plain = (Sheet('a.gif', spec.model.scales, spec.tokenizer.factor, 2, film=f).draw(model, vae, [0, 1], precision='fp32') for f in (True, False))
    assert film.shape == (4, len(spec.model.scales), *plain.shape[1:]) and torch.equal(film[:, -1], plain)
    assert 'picture' not in vae.__dict__

def test_sar_sample_keeps_what_is_not_masked(files):
    assert sar('sample', '--classes', '1', '--n', '1', '--edit', 'picture.png', '--mask', 'mask.png', '--plain', cwd=files).returncode == 0
    got = torch.tensor(np.array(Image.open(files/'samples.png'))).permute(2, 0, 1)[None]
    want = load_dataset('emoji64', 32, 'test', limit=1).images[:1]
    kept = ~box(1, a=4, b=28)
    assert rms(got, want, kept) < 0.35

CASES = {
    'too many steps': (['--steps', '99'], 'the number of steps is 99: expected a whole number from 2 to 8'),
    'one step': (['--steps', '1'], 'the number of steps is 1'),
    'steps and schedule': (['--steps', '3', '--scales', '1,2'], 'names the whole schedule'),
    'a webp too wide': (['--n', '200', '--out', 'a.webp'], '200 by 8 pictures of 128 pixels do not fit into one WEBP file'),
    'enlarged beyond reason': (['--enlarge', '9000'], 'pictures of 288,000 pixels do not fit into one PNG file'),
    'a film of too many': (['--n', '600', '--out', 'a.gif', '--film'], 'do not fit into one GIF file'),
    'words as schedule': (['--scales', '1,two'], "--scales '1,two': expected whole numbers with commas between, as in 1,2,3,4,6,8"),
    'falling schedule': (['--scales', '1,4,2'], 'does not rise'),
    'schedule beyond the table': (['--scales', '1,2,40'], 'ends at side 40'),
    'schedule with zero': (['--scales', '0,1'], 'is 0'),
    'pixels between tokens': (['--pixels', '30'], '--pixels 30: expected a multiple of 4'),
    'pixels between tokens, by size': (['--size', '30'], '--pixels 30'),
    'no size and no pixels': (['--size', '9'*5000], 'unknown size'),
    'a power as size': (['--size', '²'], 'unknown size'),
    'two sizes in pixels': (['--size', '32', '--pixels', '16'], 'give one'),
    'too large': (['--pixels', '4000'], 'the last side is 1000: expected a whole number from 1 to 16'),
    'guidance of too few scales': (['--guidance', '1,2'], 'guidance has 2 values for 6 scales'),
    'guidance in words': (['--guidance', '1,x,3,4,5,6'], "guidance is 'x': expected a number from 0 to 100"),
    'one nan of six': (['--top-p', '1,1,nan,1,1,1'], 'top_p is nan'),
    'mask of another size': (['--edit', 'picture.png', '--mask', 'other.png'], 'is 32x32 pixels, the picture picture.png 64x64'),
    'mask without white': (['--edit', 'picture.png', '--mask', 'black.png'], 'has no white'),
    'missing mask': (['--edit', 'picture.png'], '--edit needs --mask PICTURE'),
    'mask that is not there': (['--edit', 'picture.png', '--mask', 'gone.png'], 'no picture at gone.png'),
    'mask alone': (['--mask', 'mask.png'], '--mask needs --edit'),
    'first scale alone': (['--from-scale', '2'], '--from-scale needs --edit'),
    'first scale beyond': (['--edit', 'picture.png', '--from-scale', '7'], '--from-scale is 7: expected a whole number from 1 to 6'),
    'no picture': (['--edit', 'text.png', '--mask', 'mask.png'], 'text.png cannot be read'),
    'folder as picture': (['--edit', '.', '--mask', 'mask.png'], 'cannot be read'),
    'unknown class': (['--edit', 'picture.png', '--mask', 'mask.png', '--classes', 'dragons'], "unknown class 'dragons'"),
}

@pytest.mark.parametrize('args,words', CASES.values(), ids=CASES)
def test_one_sentence_before_the_model_is_loaded(files, monkeypatch, args, words):
    import sar_repro.models as models
    def loaded(*_): raise AssertionError('the model was loaded first')
    monkeypatch.setattr(models, 'load_models', loaded)
    before = sorted(files.rglob('*'))
    got = sar('sample', *args, cwd=files)
    assert got.returncode == 2 and words in got.stderr and got.stderr.count('\n') == 1, got.stderr
    assert sorted(files.rglob('*')) == before

def test_help_explains_each_option():
    said = sar('sample', '--help').stdout
    for option in ('--steps', '--scales', '--pixels', '--edit', '--mask', '--from-scale', '--guidance', '--top-k', '--top-p'): assert option in said
    assert 'one for each scale' in ' '.join(said.split()) and 'white' in said and 'In float32' in said
