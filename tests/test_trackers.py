"What is logged arrives where it was sent."
import pandas as pd
import torch
from sar_repro.engine.core import ModelConfig, TrainConfig
from sar_repro.scale_ar import FlexVAR
from sar_repro.tokenizer import Codebook
from sar_repro.tokenizer import TokenData
from sar_repro.jobs.runs import train_run
from sar_repro.strategies import get_loss

def Toy():
    tokens = torch.randint(9, (24, 2, 5), generator=torch.Generator().manual_seed(0))
    return TokenData(tokens, torch.arange(24) % 2, (1, 2), Codebook(9, 4).requires_grad_(False), tokenizer='toy')

def test_tensorboard_has_the_rows_of_log_csv(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    torch.manual_seed(0)
    model = FlexVAR(ModelConfig(depth=1, embed_dim=64, num_heads=1, vocab_size=9, latent_channels=4, num_classes=2, scales=(1, 2), pos_side=4))
    train_run(model, Toy(), get_loss('sar'), TrainConfig(epochs=2, batch_size=8), tmp_path, tracker='tensorboard')
    folders = {f.parent for f in tmp_path.rglob('events.out.tfevents*')}
    seen = {}
    for folder in folders:
        events = EventAccumulator(str(folder)); events.Reload()
        seen |= {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()['scalars']}
    log = pd.read_csv(tmp_path/'log.csv')
    assert [s for s, _ in seen['csf']] == log.step.tolist()
    assert torch.allclose(torch.tensor([v for _, v in seen['csf']]), torch.tensor(log.csf.tolist(), dtype=torch.float), atol=1e-4)
