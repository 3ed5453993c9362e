"What the measuring scripts share: parts asked for by name, a record of each as soon as it is measured."
import argparse, sys, time, traceback
from pathlib import Path

from sar_repro.engine.core import SarError, check_choice
from sar_repro.engine.files import save_json
from sar_repro.engine.machine import run_record

def main(script, about, parts, out=None, check=lambda dry: None):
    "Parse the command line and run parts; a part takes `dry`. `check` says by a SarError what is missing for it."
    parse = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument('--out', type=Path, required=out is None, default=out, help='folder of the records')
    parse.add_argument('--parts', default=','.join(parts), help='which, in this order')
    parse.add_argument('--dry', action='store_true', help='small shapes on the CPU; the figures mean nothing')
    args, failed = parse.parse_args(), 0
    try:
        names = [check_choice('part', n, parts) for n in args.parts.split(',')]
        check(args.dry)
    except SarError as e: sys.exit(f'{script}: {e}')
    args.out.mkdir(parents=True, exist_ok=True)
    for name in names:
        start = time.time()
        try: record = parts[name](args.dry)
        except Exception: failed += 1; traceback.print_exc(); print(f'{name}: failed', flush=True); continue
        record = record if 'commit' in record else run_record(part=name, dry=args.dry, **record)
        save_json(args.out/f'{name}.json', record)
        print(f'{name}: {time.time() - start:.0f} s', flush=True)
    sys.exit(bool(failed))
