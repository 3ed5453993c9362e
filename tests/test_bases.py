"The hybrid and VAR: golden files, masks and schedules by hand, sampling, configurations, one small step of each loss, errors."
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, sar
from sar_repro.engine.core import ModelConfig, SarError, TokenizerConfig, TrainConfig, VARIANTS, get_size, stored, with_base
from sar_repro.csfl import sar_loss, tf_loss, true_target
from sar_repro.engine.files import PUBLISHED, load_tensors, save_tensors, weights_path
from sar_repro.models import find_size, load_model, load_tokenizer, make_model, make_tokenizer, model_meta, tokenizer_config
from sar_repro.jobs.parity import check_file
from sar_repro.jobs.published import beside_published, paper_table
from sar_repro.jobs.plan import plan_job
from sar_repro.hybrid import apart_mask, draw_hybrid_schedule, left_normal, markov_mask, masked_tokens, round_ends
from sar_repro.scale_ar import causal_mask, generate, sample
from sar_repro.ssr import student_pass
from sar_repro.tokenizer import STREAMS, Batch, Codebook, next_inputs, reconstruct, split_scales
from sar_repro.train import param_groups
from sar_repro.var import ResidualCodebook, our_names, published_name

GOLDEN = ROOT/'data/golden'
WIDTH = dict(depth=2, embed_dim=64, num_heads=2, vocab_size=24, latent_channels=4, num_classes=3, pos_side=8)
TOY_VAE = TokenizerConfig(ch=16, ch_mult=(1, 2), z_channels=8, latent_channels=4, vocab_size=24, enc_blocks=1, dec_blocks=1, groups=8)

def open_gates(model): # a fresh model's branches are nearly closed, so that contexts would hardly count
    for b in model.blocks: torch.nn.init.normal_(b.ada_lin[1].weight, std=0.2)
    torch.nn.init.normal_(model.head.weight, std=0.5)
    return model

def toy(base, n=5, context=0):
    "A model, a codebook, and a batch of random latents."
    torch.manual_seed(0)
    scales = (2, 3, 4) if base == 'hybrid' else (1, 2, 4)
    model = open_gates(make_model(ModelConfig(scales=scales, base=base, context=context, **WIDTH))).eval()
    book = ResidualCodebook(replace(TOY_VAE, kind='varvae')) if base == 'var' else Codebook(24, 4)
    book.requires_grad_(False)
    latent = torch.randn(n, 4, 4, 4)
    if base == 'var': tokens = book.tokenize(latent, scales)
    else: tokens = torch.cat([book.nearest(F.interpolate(latent, size=(p, p), mode='area').flatten(2).mT) for p in scales], 1)
    return model, book, Batch(tokens, torch.arange(n) % 3, torch.arange(n), scales, book, 3, latent=latent if base == 'var' else None)

# golden files

@pytest.mark.parametrize('name,rows', [('hybrid', 17), ('var', 17), ('varvae', 4)])
def test_golden_files(name, rows):
    found = check_file(GOLDEN/f'{name}_small.safetensors')
    assert len(found) == rows and all(r['ok'] for r in found), [r['name'] for r in found if not r['ok']]
    assert all(r['exact'] for r in found if r['name'].endswith('tokens'))

@pytest.mark.parametrize('name', ['hybrid', 'var', 'varvae'])
def test_what_a_golden_file_leaves_out_is_computed(name, tmp_path):
    tensors, meta = load_tensors(GOLDEN/f'{name}_small.safetensors')
    few = {k: v for k, v in tensors.items() if k not in ('tokens', 'tf.input', 'tf_input', 'f_hat', 'sf.input')}
    config = {k: v for k, v in meta['config'].items() if k not in ('vocab_size', 'latent_channels', 'share_quant_resi', 'ch')}
    if name == 'varvae': config['vocab_size'] = 4096
    save_tensors(tmp_path/'x.safetensors', few, **meta | dict(config=config))
    assert all(r['ok'] for r in check_file(tmp_path/'x.safetensors'))

@pytest.mark.parametrize('name,change,words', [
    ('hybrid', dict(kind='var'), 'using_znorm|cannot be computed|VAR|compare its sizes'),
    ('hybrid', dict(kind='gan'), "unknown kind 'gan': expected one of flexvar, flexvae, losses, hybrid, var, var_vae"),
    ('hybrid', dict(seed=None), "lacks 'seed': it is not a whole golden file"),
    ('hybrid', dict(depth=None), "lacks 'depth'"),
    ('var', dict(patch_nums=[1, 2, 3]), 'ends at 3, the latent has side 4'),
    ('var', dict(using_znorm=True), 'using_znorm is True'),
    ('var', dict(quant_resi='half'), 'cannot be computed with its configuration'),
    ('varvae', dict(latent_channels=16), 'latent_channels is 16 in its configuration and 32 in its tensors')])
def test_a_wrong_golden_configuration_gets_a_sentence(name, change, words, tmp_path):
    tensors, meta = load_tensors(GOLDEN/f'{name}_small.safetensors')
    save_tensors(tmp_path/'x.safetensors', tensors, **meta | dict(config=meta['config'] | change))
    with pytest.raises(SarError, match=words): check_file(tmp_path/'x.safetensors')

def test_parameter_counts_names_and_shapes_are_the_published_ones():
    size = get_size('var-d16')
    with torch.device('meta'): model, vae = make_model(size.model), make_tokenizer(size.tokenizer)
    assert sum(p.numel() for p in model.parameters()) == 310_283_520 and sum(p.numel() for p in vae.parameters()) == 108_948_355
    published = json.loads((GOLDEN/'var_d16_state_dict.json').read_text())
    made_on_the_fly = {'lvl_1L', 'attn_bias_for_masking'}
    assert {k: list(t.shape) for k, t in model.state_dict().items()} == {k: s for k, s in published.items() if k not in made_on_the_fly}
    theirs = {k: torch.empty(s, device='meta') for k, s in json.loads((GOLDEN/'varvae_state_dict.json').read_text()).items()}
    ours = {k: t.shape for k, t in our_names(theirs).items() if k != 'quantize.ema_vocab_hit_SV'}
    assert ours == {k: t.shape for k, t in vae.state_dict().items()}
    for name in ours: # there and back
        back, third = published_name(name, 5)
        assert back in theirs and (third is None or theirs[back].shape[0] == 3*ours[name][0])

# masks, schedules, rounds

def test_masks_by_hand():
    mask = markov_mask((1, 2), True)[0, 0] == 0 # class, map 1 (one token), map 2 (two tokens)
    assert mask.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 1], [1, 0, 1, 1]]
    student = markov_mask((1, 2), False)[0, 0] == 0
    assert student[0].all() and student[1:].equal(mask[1:])
    assert (apart_mask((1, 2))[0, 0] == 0).int().tolist() == [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0]] + [[0, 0, 1, 1, 1]]*3

def test_context_by_hand():
    seen = lambda c: [(causal_mask((1, 2, 3), context=c)[0, 0, i] == 0).int().tolist() for i in (1, 5)] # a token of 2x2, of 3x3
    assert seen(0) == seen(3) == [[1]*5 + [0]*9, [1]*14]
    assert seen(1) == [[1]*5 + [0]*9, [1] + [0]*4 + [1]*9] # its own places (which hold the map before), and the class
    assert seen(2) == seen(0)

def test_rounds_and_mask_ratios():
    assert round_ends(16, 8) == [1, 2, 4, 8, 11, 13, 15, 16]
    assert round_ends(4, 1) == [4] and round_ends(4, 8) == [1, 2, 3, 4, 4, 4, 4, 4]
    u = torch.linspace(0, 1 - 2**-24, 1001)
    ratio = left_normal(u)
    assert ratio.min() >= 0.7 - 1e-9 and ratio.max() <= 1 and (ratio.diff() > 0).all()
    assert 0.86 < ratio.mean() < 0.89 # a normal of spread .25 between .7 and 1

def test_hybrid_schedules():
    rng, default = np.random.default_rng(0), (4, 5, 6, 8, 10, 13, 16)
    drawn = [draw_hybrid_schedule(rng) for _ in range(2000)]
    assert 0.03 < np.mean([s == default for s in drawn]) < 0.12
    for s in drawn: assert s[0] == 4 and s[-1] == 16 and list(s) == sorted(set(s)) and sum(p*p for p in s) <= 800
    assert {len(s) for s in drawn} >= {5, 6, 7}

def test_masked_tokens_belong_to_the_sample():
    _, _, batch = toy('hybrid')
    masked = masked_tokens(batch)
    assert masked.shape == (5, 4) and set(masked.sum(1).tolist()) <= {2, 3} # int(4 ratio), ratio from .7 to below 1
    assert masked_tokens(batch.first(2)).equal(masked[:2])
    assert STREAMS['mask'] == max(STREAMS.values()) and STREAMS['path2'] == 6 # those before keep their numbers

# what feeds what

def test_residual_maps_add_up_as_a_loop_says():
    _, book, batch = toy('var')
    scales, f_hat, rest = batch.scales, torch.zeros_like(batch.latent), batch.latent
    for k, (p, t) in enumerate(zip(scales, split_scales(batch.tokens, scales))):
        small = F.interpolate(rest, size=(p, p), mode='area') if k < 2 else rest
        far = torch.cdist(small.flatten(2).mT, book.codes()[None])
        assert far.argmin(-1).equal(t)
        h = book.codes()[t].mT.reshape(5, 4, p, p)
        if k < 2: h = F.interpolate(h, size=(4, 4), mode='bicubic')
        ticks = np.linspace(1/3/4, 1 - 1/3/4, 4) # the middle is as near to the second as to the third: rounding decides, as in the published code
        conv = book.quant_resi.qresi_ls[(0, int(np.abs(ticks - 0.5).argmin()), 3)[k]]
        h = 0.5*h + 0.5*F.conv2d(h, conv.weight, conv.bias, padding=1)
        f_hat, rest = f_hat + h, rest - h
        assert torch.allclose(book.sums(batch.tokens, scales)[k], f_hat, atol=1e-5)
        if k < 2:
            fed = split_scales(batch.inputs, scales[1:])[k]
            assert torch.allclose(fed, F.interpolate(f_hat, size=(scales[k + 1],)*2, mode='area').flatten(2).mT, atol=1e-5)

def test_both_rollouts_of_residual_maps():
    _, book, batch = toy('var')
    scales, own = batch.scales, batch.tokens.roll(1, 0)
    a, b = next_inputs(book, own, scales), next_inputs(book, own, scales, batch.tokens)
    assert a[:, :4].equal(b[:, :4]) and not a[:, 4:].equal(b[:, 4:]) # the first own map has nothing before it
    mixed = torch.cat([batch.tokens[:, :1], own[:, 1:]], 1) # (b) at 4x4: true 1x1, own 2x2
    assert torch.allclose(b[:, 4:], next_inputs(book, mixed, scales)[:, 4:], atol=1e-6)
    plain = toy('flexvar')[1:]
    same = [next_inputs(plain[0], plain[1].tokens, plain[1].scales, before) for before in (None, plain[1].tokens*0)]
    assert same[0].equal(same[1]) # maps that stand for themselves know no difference

def test_the_residual_target_is_what_own_maps_lack():
    _, book, batch = toy('var')
    cfg = TrainConfig(target='residual')
    assert true_target(batch, batch.tokens, cfg).equal(batch.tokens) # after true maps it is the truth
    own = batch.tokens.roll(1, 0)
    target = true_target(batch, own, cfg)
    rest = batch.latent - book.sums(own, batch.scales)[1] # after two own maps
    assert target[:, :1].equal(batch.tokens[:, :1]) and target[:, 5:].equal(book.nearest(rest.flatten(2).mT))
    gap = lambda last: (batch.latent - book.sums(torch.cat([own[:, :5], last], 1), batch.scales)[-1]).square().mean()
    assert gap(target[:, 5:]) < gap(batch.tokens[:, 5:]) # it mends what the truth's own last map cannot
    with pytest.raises(SarError, match='expected base var'): true_target(toy('flexvar')[2], own, cfg)

# sampling

@pytest.mark.parametrize('base,context', [('flexvar', 0), ('flexvar', 1), ('flexvar', 2), ('hybrid', 0), ('hybrid', 1), ('var', 0), ('var', 1)])
def test_sampling_does_not_depend_on_the_company(base, context):
    model, book, batch = toy(base, context=context)
    how = dict(guidance=1.5, top_p=0.9, seed=3)
    with torch.no_grad():
        whole = generate(model, book, batch.labels, **how)
        alone = [generate(model, book, batch.labels[i:i + 1], **how, index=[i]) for i in range(5)]
        assert torch.cat(alone).equal(whole)
        greedy = generate(model, book, batch.labels, seed=None)
        n = batch.scales[0]**2
        kept = generate(model, book, batch.labels, seed=None, prefix=greedy[:, :n + batch.scales[1]**2])
        assert kept.equal(greedy)
        own = model(batch.labels, next_inputs(book, greedy, batch.scales), batch.scales)[:, -16:]
        if base != 'hybrid' or context: assert own.argmax(-1).equal(greedy[:, -16:]) # cache or not, the same

def test_one_step_of_ssr_is_the_samplers_context_in_the_hybrid():
    model, book, batch = toy('hybrid', context=1)
    with torch.no_grad():
        f = student_pass(model, batch, batch.tokens, TrainConfig(cond_drop=0.0)).logits()
        net = model.steps(book, batch.labels, batch.scales, False)
        for k, (part, before) in enumerate(zip(split_scales(f, batch.scales[1:]), split_scales(batch.tokens, batch.scales)), 1):
            seen = net.predict(net.hidden(k, before), k, 0.0, 'var', False).logits()
            assert torch.allclose(seen, part, atol=1e-5)

def test_pictures_of_residual_maps():
    torch.manual_seed(0)
    vae, (model, _, _) = make_tokenizer(replace(TOY_VAE, kind='varvae')).eval().requires_grad_(False), toy('var')
    pictures = sample(model, vae, torch.tensor([0, 1, 2]), precision='fp32', seed=1)
    assert pictures.shape == (3, 3, 8, 8) and pictures.dtype == torch.uint8
    latent = torch.randn(2, 4, 4, 4)
    tokens = vae.tokenize(latent, (1, 2, 4))
    assert torch.equal(vae.picture(tokens, (1, 2, 4)), vae.decode_latent(vae.quantize.sums(tokens, (1, 2, 4))[-1]).clamp(-1, 1))
    with pytest.raises(SarError, match='ends at 2, the latent has side 4'): vae.tokenize(latent, (1, 2))

@pytest.mark.parametrize('call,words', [
    (lambda: generate(toy('var')[0], toy('var')[1], torch.tensor([0]), scales=(1, 3, 4)), r'the schedule 1, 3, 4 is not that of this VAR, \(1, 2, 4\)'),
    (lambda: generate(toy('var')[0], toy('var')[1], torch.tensor([0]), scales=(1, 4)), r'its convolutions go by a map.s place'),
    (lambda: generate(toy('flexvar')[0], toy('flexvar')[1], torch.tensor([0]), rounds=3), 'unknown setting rounds of a sample of base flexvar'),
    (lambda: generate(toy('hybrid')[0], toy('hybrid')[1], torch.tensor([0]), rounds=0), 'rounds is 0: expected a whole number'),
    (lambda: generate(toy('hybrid')[0], toy('hybrid')[1], torch.tensor([0]), scales=(1, 2, 4)), "starts at side 1: this model starts at 2"),
    (lambda: generate(toy('var')[0], toy('flexvar')[1], torch.tensor([0])), 'a model of base var needs a tokenizer whose maps add up'),
    (lambda: generate(toy('hybrid')[0], toy('var')[1], torch.tensor([0])), 'a model of base hybrid needs a tokenizer whose maps stand for themselves'),
    (lambda: plan_job(dict(base='hybrid', method='mixed')), 'method mixed does not know a masked first map'),
    (lambda: plan_job(dict(base='gpt')), "unknown base 'gpt'"),
    (lambda: plan_job(dict(size='d16', base='var', target='mean')), "unknown target 'mean'"),
    (lambda: ModelConfig(base='hybrid', context=2), 'the hybrid reads one map')])
def test_one_sentence(call, words):
    with pytest.raises(SarError, match=words): call()

# configurations and files

def test_configurations_leave_young_fields_out():
    assert not {'base', 'context', 'kind', 'share', 'phi', 'sf_before'} & {*stored(ModelConfig()), *stored(TokenizerConfig()), *stored(TrainConfig())}
    for cfg in (ModelConfig(base='hybrid', context=1), TokenizerConfig(kind='varvae', phi=0.25), TrainConfig(sf_before='truth')):
        assert type(cfg)(**stored(cfg)) == cfg and repr(cfg) != repr(type(cfg)())
    assert with_base('tiny', 'var') == 'var-tiny' == with_base('var-tiny', 'var')
    assert all(s.image_size // s.tokenizer.factor == s.model.scales[-1] for s in VARIANTS.values())
    assert weights_path('hybrid-tiny', 'tokenizer') == weights_path('tiny', 'tokenizer')
    assert weights_path('var-d16', 'model').name == 'var_d16.pth' and 'sar' not in PUBLISHED['var-d16']
    assert plan_job(dict(size='tiny', epochs=2)).name == 'tiny-emoji64-sar-s0-1c4b2b' # as it was before there were bases

@pytest.mark.parametrize('base', ['hybrid', 'var'])
def test_loaders_tell_the_bases_apart(base, tmp_path):
    size = get_size(f'{base}-tiny')
    model = make_model(replace(size.model, num_classes=5))
    save_tensors(tmp_path/'m.safetensors', model.state_dict(), **model_meta(model.cfg))
    torch.save(model.state_dict(), tmp_path/'m.pth')
    for name in ('m.safetensors', 'm.pth'):
        assert find_size(tmp_path/name) == size.name and load_model(size.name, tmp_path/name).cfg == model.cfg
        with pytest.raises(SarError, match=f'it is of base {base}, size tiny is of base flexvar'): load_model('tiny', tmp_path/name)
    done = sar('sample', tmp_path/'m.safetensors', '--size', 'tiny', cwd=tmp_path)
    assert done.returncode == 2 and f'of base {base}' in done.stderr
    done = sar('diagnose', tmp_path/'m.safetensors', cwd=tmp_path)
    assert done.returncode != 0 and 'a diagnosis decodes maps one by one, expected flexvar' in done.stderr

def test_loaders_know_vars_tokenizer(tmp_path):
    want = get_size('var-tiny').tokenizer
    vae = make_tokenizer(want)
    save_tensors(tmp_path/'t.safetensors', vae.state_dict(), config=stored(want), kind='VarVAE')
    vae = load_tokenizer('var-tiny', tmp_path/'t.safetensors')
    assert vae.cfg == want and vae.scales == (1, 2, 3, 4, 6, 8) # a picture needs all of its maps
    pictures = torch.full((2, 3, 32, 32), 128, dtype=torch.uint8)
    shown, tokens = reconstruct(vae, pictures)
    assert shown.shape == (2, 3, 32, 32) and tokens.shape == (2, 130)
    with pytest.raises(SarError, match='sar run 07_train -p size hybrid-tiny -p init scratch'): load_model('hybrid-tiny')
    with pytest.raises(SarError, match='holds another tokenizer'): load_tokenizer('tiny', tmp_path/'t.safetensors')
    for share in (1, 3): assert tokenizer_config(make_tokenizer(replace(want, share=share)).state_dict()).share == share
    torch.save(vae.state_dict(), tmp_path/'m.pth')
    with pytest.raises(SarError, match='expected a FlexVAR'): load_model('var-tiny', tmp_path/'m.pth')

def test_quoted_numbers_of_var(tmp_path):
    table = paper_table(tmp_path, var=True)
    assert table.xs('quoted', level='status').FID.tolist() == [3.55, 2.95, 2.33, 1.97]
    assert (table.xs('measured', level='status').settings == 'not measured here').all()

# training

STEPS = [(base, method, more) for base in ('hybrid', 'var') for method, more in (('tf', {}), ('sar', {}), ('sar', dict(target='soft')), ('sar', dict(target='truth')), ('sar', dict(sf_scales='last')), ('sar', dict(rollout_guidance=1.2)))]
STEPS += [('var', 'sar', dict(target='residual')), ('var', 'sar', dict(sf_before='truth')), ('var', 'sar', dict(target='residual', sf_before='truth')), ('var', 'sar', dict(target='residual', sf_scales='last'))]

@pytest.mark.parametrize('base,method,more', STEPS, ids=lambda v: v if isinstance(v, str) else '-'.join(map(str, v.values())) or 'plain')
def test_a_step_of_every_loss_has_finite_gradients(base, method, more):
    model, _, batch = toy(base)
    model.train()
    batch.second = 3
    losses = {}
    for name, loss, scales in (tf_loss if method == 'tf' else sar_loss)(model, batch, TrainConfig(method=method, **more)):
        loss.backward()
        losses[name] = loss.item()
        assert scales.isfinite().all()
    assert set(losses) == ({'tf'} if method == 'tf' else {'tf', 'csf'}) and all(v > 0 for v in losses.values())
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert not missing, missing # several processes want every weight in the graph
    assert all(p.grad.isfinite().all() for p in model.parameters())
    free = param_groups(model, 0.05)[1]['params']
    assert all(any(p is q for q in free) for n, p in model.named_parameters() if 'pos' in n or 'token' in n or 'lvl' in n)

def test_every_weight_is_in_the_graph_of_pass_2():
    for base in ('hybrid', 'var'):
        model, _, batch = toy(base)
        student_pass(model, batch, batch.tokens, TrainConfig()).logits().sum().backward()
        assert not [n for n, p in model.named_parameters() if p.grad is None]

def test_the_hybrids_loss_counts_hidden_tokens_only():
    model, _, batch = toy('hybrid')
    (_, loss, by_map), = tf_loss(model, batch, TrainConfig(cond_drop=0.0))
    masked = masked_tokens(batch)
    with torch.no_grad(): logits = model(batch.labels, batch.inputs, batch.scales, first=batch.book.lookup(batch.tokens[:, :4]), masked=masked)
    ce, want = F.cross_entropy(logits.mT, batch.tokens, reduction='none'), []
    for row, hidden in zip(ce, masked): want.append(torch.cat([row[:4][hidden], row[4:]]).mean())
    assert torch.allclose(loss, torch.stack(want).mean(), atol=1e-5)
    assert torch.allclose(by_map[0], ce[:, :4][masked].mean(), atol=1e-5)

def test_a_published_run_of_var_has_quoted_rows_where_there_are_any():
    from sar_repro.jobs.findings import findings
    judged = dict(before=dict(FID=3.6, IS=270.0), after=dict(FID=3.5, IS=260.0))
    table = beside_published('var-d16', judged)
    assert table.FID.tolist() == [3.6, 3.55, 3.5] and ('VAR-d16', 'quoted') in table.index
    assert beside_published('d16', judged).FID.tolist() == [3.6, 3.05, 3.5, 2.89]
    group = {'1x1': dict(before=2.0, after=1.9)}
    record = dict(judged['after'], before=judged['before'], size='var-d16', protocol='imagenet256', regime='PAPER', heldout=group, n=50_000, pictures=9, train=dict(epochs=1, method='sar'))
    assert 'published: 3.55' in findings(record) and 'none is published for SAR' in findings(record)

# a hybrid whose first map is small: any number of tokens is hidden

def any_hidden(n=5):
    model, book, batch = toy('hybrid', n, context=1)
    model.cfg = replace(model.cfg, hide='any')
    return model, book, batch

def test_any_number_of_tokens_is_hidden():
    model, _, batch = any_hidden(400)
    hidden = masked_tokens(batch, 'any').sum(1).bincount(minlength=5)
    assert hidden[0] == 0 and (hidden[1:] > 70).all()
    assert model.counted_tokens(batch)[:, :4].equal(masked_tokens(batch, 'any'))
    assert model.shown_first(batch)['masked'].equal(masked_tokens(batch, 'any'))

def test_shown_tokens_stay_in_a_rollout():
    model, _, batch = any_hidden(40)
    other = (batch.tokens + 1) % 24
    own, shown = model.drawn_codes(batch, other), ~masked_tokens(batch, 'any')
    assert own[:, :4][shown].equal(batch.tokens[:, :4][shown]) and own[:, :4][~shown].equal(other[:, :4][~shown])
    assert own[:, 4:].equal(other[:, 4:])
    model.cfg = replace(model.cfg, hide='most') # as released
    assert model.drawn_codes(batch, other).equal(other)

def test_drawn_tokens_stay_when_any_number_was_hidden():
    model, book, _ = any_hidden()
    y = torch.arange(3)
    draw = lambda **how: generate(model, book, y, seed=1, **how)
    assert draw(rounds=8).equal(draw(rounds=4)) # four tokens, so no more rounds than four
    model.cfg = replace(model.cfg, hide='most')
    assert not draw(rounds=8).equal(draw(rounds=4)) # as released, known tokens are drawn anew

def test_hide_is_kept_with_the_weights(tmp_path):
    size = get_size('hybrid-mini')
    assert size.model.hide == 'any' and size.model.context == 1 and get_size('hybrid-tiny').model.hide == 'most'
    with pytest.raises(SarError, match="unknown hide 'few'"): ModelConfig(base='hybrid', hide='few')
    assert 'hide' not in stored(ModelConfig(base='hybrid'))
    torch.manual_seed(0)
    made = make_model(size.model)
    save_tensors(tmp_path/'m.safetensors', made.state_dict(), **model_meta(made.cfg))
    for name in ('hybrid-mini', None): assert load_model(name, tmp_path/'m.safetensors').cfg.hide == 'any'

def test_the_shipped_hybrid_draws(tmp_path):
    model = load_model('hybrid-mini')
    assert model.cfg.hide == 'any' and model.facts['tokenizer'] == load_tokenizer('mini').key
    done = sar('sample', '--size', 'hybrid-mini', '--n', '1', '--out', tmp_path/'s.png')
    assert done.returncode == 0 and (tmp_path/'s.png').is_file(), done.stderr
