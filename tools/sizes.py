"""Do the published sizes fit? One forward pass and one SAR step of each, with a single picture, in a process of its own.

    python tools/sizes.py d16 d20 d24        # writes results/published-sizes.json"""
import json, subprocess, sys, time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch

from sar_repro.csfl import sar_loss
from sar_repro.engine.core import SarError, TokenizerConfig, TrainConfig, get_size
from sar_repro.engine.files import save_json
from sar_repro.engine.machine import autocast, default_device, mixed_precision, peak_rss, run_record
from sar_repro.models import make_model
from sar_repro.scale_ar import token_loss
from sar_repro.tokenizer import Batch, Codebook
from sar_repro.var import ResidualCodebook


def _random_batch(cfg, n, device):  # random codes under a random codebook
    sizes = dict(vocab_size=cfg.vocab_size, latent_channels=cfg.latent_channels)
    sums = cfg.base == "var"
    book = ResidualCodebook(TokenizerConfig(**sizes)) if sums else Codebook(*sizes.values())
    book = book.requires_grad_(False).to(device)
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randint(cfg.vocab_size, (n, cfg.seq_len), generator=rng).to(device)
    labels = torch.zeros(n, dtype=torch.int64, device=device)
    return Batch(tokens, labels, torch.arange(n), cfg.scales, book, cfg.num_classes)


def size_check(
    size: str,  # A name in `SIZES`
    batch_size: int = 1,  # Pictures
    precision: str = "auto",  # 'bf16', 'fp32' or 'auto'
    recompute: bool = True,  # Compute activations again in the backward pass
) -> dict:  # parameters, seconds, peak memory
    """One forward pass and one SAR step of a size, with random weights and codes; peak memory is
    that of this process."""
    cfg, device = get_size(size).model, default_device()
    torch.manual_seed(0)
    model, batch = make_model(cfg).to(device), _random_batch(cfg, batch_size, device)
    opt = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    record = dict(size=size, parameters=sum(p.numel() for p in model.parameters()))
    with autocast(device, precision):
        start = time.time()
        with torch.no_grad():
            more = model.shown_first(batch)
            logits = model.eval()(batch.labels, batch.inputs, cfg.scales, **more)
        record["chance"] = token_loss(logits, batch.tokens).mean().item()
        del logits
        record["forward_s"], start, model.recompute = time.time() - start, time.time(), recompute
        for name, loss, _ in sar_loss(model.train(), batch, TrainConfig()):
            loss.backward()
            record[name] = loss.item()
    opt.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_rss()
    return record | dict(
        step_s=time.time() - start,
        peak_gb=peak / 1e9,
        batch_size=batch_size,
        precision=mixed_precision(precision, device),
        recompute=recompute,
        device=device.type,
    )


def measure_sizes(*sizes):  # Names in `SIZES`
    """Run `size_check` on each size in a fresh process, so that peaks do not add up; writes
    results/published-sizes.json."""
    rows = []
    for size in sizes:
        code = (
            "import json; from sizes import size_check;"
            f" print(json.dumps(size_check({get_size(size).name!r})))"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "tools", capture_output=True, text=True)
        if done.returncode:
            why = done.stderr.strip().splitlines() or ["killed, most likely for want of memory"]
            raise SarError(f"size {size} could not be measured: {why[-1]}")
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1])
    save_json(ROOT / "results/published-sizes.json", run_record(rows=rows))


if __name__ == "__main__":
    measure_sizes(*sys.argv[1:])
