"The two passes and the losses of SAR against plain PyTorch, for every setting: toys small enough to write out."
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from fastcore.test import test_close as close
from torch import nn
from sar_repro.csfl import csf_loss, sar_loss, tf_loss
from sar_repro.engine.core import ModelConfig, SarError, TrainConfig
from sar_repro.engine.kernels import Prediction, pick
from sar_repro.models import name_seeded
from sar_repro.scale_ar import BaseModel, FlexVAR, causal_mask
from sar_repro.ssr import draw, rollout, rollout_guide, student_pass, teacher_pass, unconditional
from sar_repro.tokenizer import Batch, Codebook, next_inputs, upsample_codes

SCALES, PLAIN = (1, 2, 3), TrainConfig(cond_drop=0.0, gamma=0.5)
LIKELIEST = replace(PLAIN, rollout='argmax')
CONFIG = ModelConfig(2, 64, 2, 50, 8, num_classes=3, scales=SCALES, pos_side=8, drop_path=0.0)
NET, BOOK = name_seeded(FlexVAR(CONFIG)).eval(), name_seeded(Codebook(50, 8)).requires_grad_(False)
CODES = torch.randint(50, (4, 14), generator=torch.Generator().manual_seed(0))
SOME = Batch(CODES, torch.tensor([0, 1, 2, 0]), torch.arange(4), SCALES, BOOK, none=3)

# two tables as a model: p(f_1), and a row of p(f_2 | f_1) for each code

FIRST = torch.tensor([0.5, 0.3, 0.2])
AFTER = torch.tensor([[0.8, 0.15, 0.05], [0.2, 0.6, 0.2], [0.05, 0.15, 0.8]])
TRUTH, U = torch.tensor([2, 2, 2, 1, 2]), torch.tensor([0.35, 0.9, 0.1, 0.5, 0.7])
F_T = torch.cat([FIRST[None], AFTER[2].expand(4, 3)])
DRAWN = torch.tensor([0, 2, 1, 2, 2])

class Tables(BaseModel):
    def forward(self, labels, inputs, scales, **settings):
        return torch.cat([FIRST.expand(len(labels), 1, 3), inputs @ AFTER], 1).log()

def tables():
    book, none = Codebook(3, 3).requires_grad_(False), torch.tensor([0])
    book.embedding.weight.copy_(torch.eye(3))
    return Tables().eval(), Batch(TRUTH[None], none, none, (1, 2), book, none=1)

@torch.no_grad()
def test_both_passes_on_two_tables():
    model, batch = tables()
    close(teacher_pass(model, batch, PLAIN)[0].exp(), F_T, eps=1e-6)
    assert draw(F_T.log()[None], U[None], PLAIN)[0].equal(DRAWN)
    close(student_pass(model, batch, DRAWN[None], PLAIN)[0].exp(), AFTER[0].expand(4, 3), eps=1e-6)

@torch.no_grad()
def test_pass_1_is_a_forward_pass():
    assert teacher_pass(NET, SOME, PLAIN).logits().equal(NET(SOME.labels, next_inputs(BOOK, CODES, SCALES)))
    withheld = NET(torch.full((4,), 3), SOME.inputs)
    assert teacher_pass(NET, SOME, replace(PLAIN, cond_drop=1.0)).logits().equal(withheld)

@torch.no_grad()
def test_draw():
    log_f_t = F_T.log()[None]
    assert draw(log_f_t, U[None], LIKELIEST)[0].equal(torch.tensor([0, 2, 2, 2, 2]))
    assert draw(log_f_t, U[None], replace(PLAIN, rollout_top_k=1)).equal(draw(log_f_t, None, LIKELIEST))
    nucleus = draw(log_f_t, U[None], replace(PLAIN, rollout_top_p=0.7))[0, 1:]
    assert nucleus.equal(torch.full((4,), 2)) # light alone holds more than 0.7
    with pytest.raises(SarError, match="'beam'"): draw(log_f_t, U[None], replace(PLAIN, rollout='beam'))
    many = torch.rand(1, 20_000, generator=torch.Generator().manual_seed(1))
    counts = draw(FIRST.log().expand(1, 20_000, 3), many, PLAIN)[0].bincount(minlength=3)
    close(counts/20_000, FIRST, eps=0.02)
    f, noise = teacher_pass(NET, SOME, PLAIN), SOME.noise('rollout', 14)
    for way in (PLAIN, LIKELIEST, replace(PLAIN, rollout_top_k=9, rollout_top_p=0.9)): # in blocks as all at once
        assert draw(f, noise, way).equal(draw(f.logits(), noise, way))

@torch.no_grad()
def test_guidance_of_the_rollout():
    flat = torch.zeros(1, 14, 5)
    guided = rollout_guide(flat + 1, flat, 2.0, SCALES)
    close(guided[0, [0, 1, 5], 0], torch.tensor([2.0, 2.5, 3.0])) # 1 + t
    assert rollout_guide(flat[:, 5:] + 1, flat[:, 5:], 2.0, SCALES, since=2).equal(guided[:, 5:])
    assert unconditional(NET, SOME, PLAIN) is None
    way = replace(LIKELIEST, rollout_guidance=2.0)
    cond, uncond = NET(SOME.labels, SOME.inputs), NET(torch.full((4,), 3), SOME.inputs)
    t = torch.tensor([1.0] + [1.5]*4 + [2.0]*9)[:, None]
    f, without = teacher_pass(NET, SOME, way), unconditional(NET, SOME, way)
    own = rollout(f, SOME, way, without)
    assert own.equal(((1 + t)*cond - t*uncond).argmax(-1)) and not own.equal(cond.argmax(-1))
    assert rollout(f, SOME, LIKELIEST).equal(cond.argmax(-1))
    late = rollout(f, SOME, way, without, since=2) # truth stands in for 1x1 and 2x2
    assert late.equal(torch.cat([CODES[:, :5], own[:, 5:]], 1))

@torch.no_grad()
def test_pass_2():
    f = teacher_pass(NET, SOME, PLAIN).logits()
    assert student_pass(NET, SOME, CODES, PLAIN).logits().equal(f[:, 1:]) # no error, no difference
    wrong = CODES.clone()
    wrong[:, 1:5] = (CODES[:, 1:5] + 1) % 50 # an error at scale 2 reaches scale 3, not scale 2 itself
    after_error = student_pass(NET, SOME, wrong, PLAIN).logits()
    assert after_error[:, :4].equal(f[:, 1:5]) and (after_error != f[:, 1:]).any(-1)[:, 4:].all()
    other = student_pass(NET, SOME, CODES, replace(PLAIN, cond_drop=0.5, cond_shared=False)).logits()
    assert other.equal(NET(SOME.condition(0.5, 'cond2'), SOME.inputs)[:, 1:]) # a condition for itself, if wanted
    with pytest.raises(SarError, match="unknown sf_scales 'first'"):
        student_pass(NET, SOME, CODES, replace(PLAIN, sf_scales='first'))

@torch.no_grad()
def test_pass_2_drops_other_paths_than_pass_1():
    thin = name_seeded(FlexVAR(replace(CONFIG, drop_path=0.5))).train()
    second = student_pass(thin, SOME, CODES, PLAIN).logits()
    one, two = (teacher_like(thin, stream) for stream in ('path', 'path2'))
    assert second.equal(two) and not second.equal(one)

def teacher_like(net, stream): # pass 1 with the paths that a stream of noise drops
    same = replace(SOME)
    same.drop_path = lambda cfg: SOME.drop_path(cfg, stream)
    return teacher_pass(net, same, PLAIN).logits()[:, 1:]

@torch.no_grad()
def test_the_last_scale_against_its_parts():
    x = NET.word_embed(upsample_codes(BOOK.lookup(CODES[:, 1:5]), 2, 3))
    cond = NET.class_emb(SOME.labels)
    x = torch.cat([cond[:, None], x], 1) + NET.positions((1, 3))
    expected = NET.head(NET.head_nm(NET.trunk(x, cond, causal_mask((1, 3))), cond))[:, 1:]
    got = student_pass(NET, SOME, CODES, replace(PLAIN, sf_scales='last')).logits()
    close(got, expected, eps=1e-5)

# losses

def test_csf_loss():
    f_t, f_s = torch.tensor([[[0.05, 0.15, 0.8]]]).log(), torch.tensor([[[0.8, 0.15, 0.05]]]).log()
    grey, light = torch.tensor([[1]]), torch.tensor([[2]])
    soft, hard = csf_loss(f_s, f_t, None, 'soft').item(), csf_loss(f_s, f_t, grey).item()
    close([soft, hard, csf_loss(f_s, f_t, grey, 'truth', light).item()], [2.69, 1.90, 3.00], eps=0.005)
    smooth = csf_loss(f_s, f_t, grey, smoothing=0.3).item()
    close(smooth, 0.7*hard - 0.3*f_s.log_softmax(-1).mean().item(), eps=1e-6)
    with pytest.raises(SarError, match="unknown target 'kl'"): csf_loss(f_s, f_t, grey, 'kl')
    assert not csf_loss(f_s, f_t.clone().requires_grad_(), None, 'soft').requires_grad # none reaches the target
    longer = torch.cat([torch.zeros(1, 2, 3), f_t], 1) # only the last tokens have a student
    assert csf_loss(f_s, longer, None, 'soft').item() == soft
    head = nn.Linear(3, 3) # predictions whose logits are not there yet
    lazy_s, lazy_t = Prediction(f_s, head), Prediction(longer, head)
    with torch.no_grad():
        close(csf_loss(lazy_s, lazy_t, None, 'soft'), csf_loss(head(f_s), head(longer), None, 'soft'), eps=1e-6)
        close(csf_loss(lazy_s, lazy_t, grey), csf_loss(head(f_s), None, grey), eps=1e-6)

def plain_sar(net, batch, cfg):
    "`sar_loss` without any helper for losses; the sum of both terms."
    y, s, book = batch.condition(cfg.cond_drop), batch.scales, batch.book
    k = batch.second or len(y)
    x = next_inputs(book, batch.tokens, s)
    f_t, f_0 = net(y, x), net(torch.full_like(y, batch.none), x).detach()
    t = 0.5*cfg.rollout_guidance*torch.tensor([1.0] + [1.5]*4 + [2.0]*9)[:, None]
    f = f_t.detach()*(1 + t) - f_0*t
    own = f.argmax(-1) if cfg.rollout == 'argmax' else pick(f, batch.noise('rollout', 14))
    if cfg.sf_scales == 'last':
        f_s = net(y[:k], upsample_codes(book.lookup(own[:k, 1:5]), 2, 3), (1, 3), with_start=False)[:, 1:]
    else: f_s = net(y[:k], next_inputs(book, own[:k], s))[:, 1:]
    goal = dict(hard=own, soft=f_t.detach().softmax(-1), truth=batch.tokens)[cfg.target][:k, -f_s.shape[1]:]
    l_tf = F.cross_entropy(f_t.flatten(0, 1), batch.tokens.flatten(), label_smoothing=cfg.label_smoothing)
    smooth = 0.0 if cfg.target == 'soft' else cfg.label_smoothing
    l_csf = F.cross_entropy(f_s.flatten(0, 1), goal.flatten(0, 1), label_smoothing=smooth)
    return l_tf + cfg.gamma*batch.second_weight*l_csf

def gradients(net, losses): # of every parameter; backward on each loss as it comes
    net.zero_grad()
    for loss in losses: loss.backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}

@pytest.mark.parametrize('change', [
    {}, dict(rollout='argmax'), dict(target='soft'), dict(target='truth'), dict(sf_scales='last'),
    dict(sf_scales='last', target='truth', rollout='argmax'), dict(rollout_guidance=2.0),
    dict(rollout_guidance=2.0, sf_scales='last'), dict(label_smoothing=0.2), dict(label_smoothing=0.2, target='soft'),
    dict(cond_drop=0.6), dict(target='soft', share=True)], ids=str)
@pytest.mark.parametrize('together', [False, True], ids=['term by term', 'the sum'])
def test_sar_is_a_dozen_lines(change, together):
    net, change = name_seeded(FlexVAR(CONFIG)), dict(change)
    batch = replace(SOME, second=2, second_weight=1.5) if change.pop('share', False) else SOME
    cfg = replace(PLAIN, **change)
    want = plain_sar(net, batch, cfg)
    expected = gradients(net, [want])
    terms = [loss.item() for _, loss, _ in sar_loss(net, batch, cfg)]
    close(sum(terms), want.item(), eps=1e-5)
    losses = (loss for _, loss, _ in sar_loss(net, batch, cfg)) # made one by one, as asked for
    got = gradients(net, [sum(losses)] if together else losses)
    assert got.keys() == expected.keys() and len(got) == len(list(net.parameters()))
    assert max((got[k] - g).abs().max() for k, g in expected.items()) < 1e-5

def test_two_halves_of_a_batch_average_to_the_whole():
    net = name_seeded(FlexVAR(CONFIG))
    read = lambda b, cfg=PLAIN: {name: (loss.item(), by) for name, loss, by in sar_loss(net, b, cfg)}
    back = replace(SOME, tokens=CODES.flip(0), labels=SOME.labels.flip(0), index=SOME.index.flip(0))
    parts, whole = [read(replace(b, second=2)) for b in (SOME, back)], read(SOME)
    for k in (0, 1): # values, then values by scale
        close((parts[0]['csf'][k] + parts[1]['csf'][k])/2, whole['csf'][k], eps=1e-5)
        close(parts[0]['tf'][k], whole['tf'][k], eps=1e-5)
    assert [len(whole['tf'][1]), len(whole['csf'][1])] == [3, 2]
    assert len(read(SOME, replace(PLAIN, sf_scales='last'))['csf'][1]) == 1
    single = replace(SOME, tokens=CODES[:, :1], scales=(1,)) # nothing to roll out into
    assert list(read(single)) == ['tf']
    (_, alone, by), *rest = tf_loss(net, SOME, PLAIN)
    assert alone.item() == whole['tf'][0] and by.equal(whole['tf'][1]) and not rest
