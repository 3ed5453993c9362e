"Packaging: every field is read from settings.ini."
import json
import shutil
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
parser = ConfigParser(delimiters=['='], interpolation=None)
parser.read(here/'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']
readme = here/'README.md'
notebooks, dev, trackers, demo, site = (cfg[f'{k}_requirements'].split() for k in ('notebook', 'dev', 'tracker', 'demo', 'site'))

# what an installed copy needs to sample, train and run notebooks; under 40 MB, so without the emoji
SHIPPED = ('pretrained/tiny/*.safetensors', 'pretrained/mini/*.safetensors', 'pretrained/hybrid-mini/*.safetensors',
    'data/fashion16.npz', 'data/README.md',
    'data/golden/*', 'results/*.json', 'results/fork*/*.json', 'results/bases/*/*', 'results/exact_context.csv', 'results/quoted.csv', 'nbs/[0-9]*.ipynb')

class Shipped(build_py):
    "Puts `SHIPPED` beside the modules, notebooks without their outputs."
    def run(self):
        super().run()
        if self.editable_mode: return # a clone has them already
        for path in (p for pattern in SHIPPED for p in sorted(here.glob(pattern))):
            out = Path(self.build_lib)/cfg['lib_path']/'_shipped'/path.relative_to(here)
            out.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix != '.ipynb':
                shutil.copy(path, out)
                continue
            note = json.loads(path.read_text(encoding='utf-8'))
            for cell in note['cells']:
                if cell['cell_type'] == 'code': cell.update(outputs=[], execution_count=None)
            out.write_text(json.dumps(note, separators=(',', ':')), encoding='utf-8')

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'].split(),
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'], license='Apache-2.0',
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else cfg['description'],
    long_description_content_type='text/markdown',
    classifiers=['Development Status :: 3 - Alpha', 'Programming Language :: Python :: 3'],
    packages=find_packages(include=[cfg['lib_path'], f"{cfg['lib_path']}.*"]),
    cmdclass=dict(build_py=Shipped),
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg['requirements'].split(),
    extras_require=dict(notebooks=notebooks, dev=dev, trackers=trackers, demo=demo, site=site, all=notebooks + dev),
    entry_points=dict(console_scripts=cfg['console_scripts'].split(), nbdev=[f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"]))
