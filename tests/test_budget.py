"What a GPU would be given, counted without one: a change that makes its work worse fails here."
import pytest
from sar_repro.engine.core import get_size
from sar_repro.jobs.speed import PASSES, flops
from sar_repro.jobs.traced import fuse, measured_rates, seconds, traced_sampling, traced_step

STEPS = { # kernels with blocks fused, GB moved between products then, bytes kept a picture, use of an H200's products in the least time; each with little room
    ('d16', 'sar', 16): (2_500, 105, 690e6, 0.47),
    ('d24', 'sar, guided', 24): (3_890, 356, 1_540e6, 0.58)}

@pytest.mark.parametrize('size,kind,pictures', STEPS, ids=lambda v: str(v).replace(', ', '-'))
def test_a_step_asks_nothing_and_stays_within_its_budget(size, kind, pictures):
    kernels, moved, kept, use = STEPS[size, kind, pictures]
    ledger = traced_step(size, kind, pictures)
    fused = fuse(ledger.entries)
    assert not [e.name for e in fused if e.kind == 'question']
    between = sum(sum(e.reads.values()) + sum(e.writes.values()) for e in fused if e.kind == 'other')/1e9
    least, work = seconds(fused, 'H200'), PASSES[kind]*flops(get_size(size).model, pictures)
    found = len(fused), between, ledger.saved/pictures, work/least/measured_rates()[0]/1e12
    assert found[0] <= kernels and found[1] <= moved and found[2] <= kept and found[3] >= use, found

def test_sampling_asks_for_the_pictures_alone():
    ledger = traced_sampling('d16', 20)
    asked = [e.name for e in ledger.entries if e.kind == 'question']
    found = len(ledger.entries), 1e3*seconds(ledger.entries, 'H200')/20
    assert len(asked) <= 1 and found[0] <= 7_500 and found[1] <= 2.7, (asked, found)
