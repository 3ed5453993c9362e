"How the embedded pictures were packed: the rule of what is held out, the whole builder on one made-up emoji, and Fashion-MNIST's reduction."
import hashlib, io, json, sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from PIL import Image
from sar_repro.data import resize_square
from sar_repro.engine.core import SarError
from sar_repro.engine.sources import emoji_table, load_fashion16, on_white

sys.path.insert(0, str(ROOT/'tools'))
import pack

def test_what_is_held_out():
    fake = [dict(category='AB'[i % 2], unified=f'1F{i:03}') for i in range(60)]
    held = pack.heldout_code_points(fake)
    assert held == pack.heldout_code_points(fake[::-1])
    for category in 'AB':
        ranks = {e['unified']: hashlib.sha256(e['unified'].encode()).hexdigest() for e in fake if e['category'] == category}
        assert sorted(ranks, key=ranks.get)[:3] == sorted(held & set(ranks), key=ranks.get) # three of thirty, the lowest

def test_the_committed_file_follows_the_rule():
    emoji = emoji_table()
    assert emoji.attrs['sources'] == pack.EMOJI_SOURCES
    held = pack.heldout_code_points([dict(category=c, unified=u.upper()) for c, u in zip(emoji.category, emoji.code_point)])
    assert set(emoji.code_point[emoji.split == 'test']) == {code.lower() for code in held}

def test_two_spellings_of_an_emoji():
    assert pack.emoji_key('0023-fe0f-20e3') == pack.emoji_key('23-20e3') == (0x23, 0x20e3)
    assert pack.emoji_key('1f1e7-1f1f7') != pack.emoji_key('1f1f7-1f1e7') # the order counts: BR is not RB

PACKAGES = {'emoji-datasource-google': ('img/google/64', '0023-fe0f-20e3.png', '16.0.0'), 'emoji-datasource-twitter': ('img/twitter/64', '0023-fe0f-20e3.png', '16.0.0'),
            'lobehub-fluent-emoji-3d': ('assets', '23-20e3.webp', '1.1.0')}

def test_the_builder(tmp_path):
    with pytest.raises(SarError, match='expected the npm package emoji-datasource-google'): list(pack.emoji_files(tmp_path))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8), 'RGBA')
    for folder, (inner, file, version) in PACKAGES.items():
        (tmp_path/folder/inner).mkdir(parents=True)
        picture.save(tmp_path/folder/inner/file, lossless=True, exact=True)
        (tmp_path/folder/'package.json').write_text(json.dumps(dict(version=version)))
    record = dict(category='Symbols', unified='0023-FE0F-20E3', name='HASH', short_name='hash', image='0023-fe0f-20e3.png', sort_order=1, has_img_google=True, has_img_twitter=True)
    (tmp_path/'emoji-datasource-google/emoji.json').write_text(json.dumps([record, dict(record, category='Component')]))
    first, second, none = (tmp_path/f'{n}.parquet' for n in 'abc')
    assert pack.build_emoji64(tmp_path, first) == pack.build_emoji64(tmp_path, second) == 3
    assert first.read_bytes() == second.read_bytes()
    built = pq.read_table(first).to_pandas()
    assert built['style'].tolist() == ['noto', 'twemoji', 'fluent'] and built.columns.tolist() == pack.EMOJI_COLUMNS
    for b in built.image: assert np.array_equal(np.asarray(Image.open(io.BytesIO(b))), np.asarray(on_white(picture)))
    about = tmp_path/'lobehub-fluent-emoji-3d/package.json'
    about.write_text('{"version": "1.0.0"}')
    with pytest.raises(SarError, match='is version 1.0.0, expected 1.1.0'): pack.build_emoji64(tmp_path, none)
    about.write_text('{"version": "1.1.0"}')
    (tmp_path/'emoji-datasource-twitter/img/twitter/64/0023-fe0f-20e3.png').unlink()
    with pytest.raises(SarError, match='is missing from the twemoji package'): pack.build_emoji64(tmp_path, none)
    assert not none.exists()

def test_the_reduction_is_that_of_resize_square(tmp_path, monkeypatch):
    made = np.repeat(np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8), 8, 0)
    raw = dict(source=F.pad(torch.from_numpy(made), (2,)*4)[:, None], labels=torch.arange(40) % 10)
    monkeypatch.setattr(pack, 'load_fashion_mnist', lambda root, split: raw)
    pack.pack_fashion16(tmp_path, tmp_path, train=20, test=10)
    few = load_fashion16(tmp_path, 'test')
    assert few['source'].equal(resize_square(raw['source'][::4].repeat(1, 3, 1, 1), 16)) and few['labels'].tolist() == raw['labels'][::4].tolist()
