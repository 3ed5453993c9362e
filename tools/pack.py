"""How data/emoji64.parquet and data/fashion16.npz were made; the same library versions give the same bytes (data/README.md).

    python tools/pack.py emoji data/packages data/emoji64.parquet     # of three unpacked npm packages, ten minutes
    python tools/pack.py fashion FOLDER OUT                           # of Fashion-MNIST's four files"""
import hashlib, io, json, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from sar_repro.engine.core import SarError
from sar_repro.engine.files import atomic_path
from sar_repro.engine.machine import progress
from sar_repro.engine.sources import FASHION16, load_fashion_mnist, on_white

EMOJI_SOURCES = {
    "noto": dict(
        package="emoji-datasource-google",
        version="16.0.0",
        licence="Apache-2.0",
        by="Google, Noto Emoji",
    ),
    "twemoji": dict(
        package="emoji-datasource-twitter",
        version="16.0.0",
        licence="CC-BY-4.0",
        by="Twitter, Inc and other contributors, Twemoji",
    ),
    "fluent": dict(
        package="@lobehub/fluent-emoji-3d",
        version="1.1.0",
        licence="MIT",
        by="Microsoft, Fluent Emoji (3D)",
    ),
}


EMOJI_COLUMNS = ["image", "label", "category", "style", "code_point", "name", "split"]


def emoji_key(
    code_point: str,  # As in a file's name, e.g. '0023-fe0f-20e3'
) -> tuple:  # The code points as numbers, without variation selectors
    "What two spellings of one emoji have in common."
    return tuple(int(c, 16) for c in code_point.split("-") if c.lower() != "fe0f")


def _package_folder(packages, source):
    folder = packages / source["package"].lstrip("@").replace("/", "-")
    try:
        version = json.loads((folder / "package.json").read_text(encoding="utf-8"))["version"]
    except (OSError, ValueError, KeyError):
        raise SarError(
            f"{folder.name} is not in {packages}: expected the npm package"
            f" {source['package']} unpacked there; data/README.md has the three commands"
        ) from None
    if version != source["version"]:
        raise SarError(
            f"{source['package']} is version {version}, expected {source['version']}; fetch that"
            " version"
        )
    return folder


def emoji_files(
    packages,  # Folder with the three unpacked npm packages
):  # Yields (record of emoji.json, style, file)
    "All drawings of the emoji that both PNG sets have, in Unicode's order."
    folders = {
        style: _package_folder(Path(packages), source) for style, source in EMOJI_SOURCES.items()
    }
    records = json.loads((folders["noto"] / "emoji.json").read_text(encoding="utf-8"))
    fluent = {emoji_key(f.stem): f for f in sorted((folders["fluent"] / "assets").glob("*.webp"))}
    for e in sorted(records, key=lambda e: e["sort_order"]):
        if not (e["has_img_google"] and e["has_img_twitter"]) or e["category"] == "Component":
            continue
        yield e, "noto", folders["noto"] / "img/google/64" / e["image"]
        yield e, "twemoji", folders["twemoji"] / "img/twitter/64" / e["image"]
        if emoji_key(e["unified"]) in fluent:
            yield e, "fluent", fluent[emoji_key(e["unified"])]


def heldout_code_points(
    records: list,  # Records with 'category' and 'unified'
) -> set:  # Code points of the test split
    "One emoji in ten of each category: those with the lowest hash."
    by_category = {}
    for e in records:
        by_category.setdefault(e["category"], set()).add(e["unified"])
    rank = lambda code: hashlib.sha256(code.encode()).hexdigest()
    return {
        code
        for codes in by_category.values()
        for code in sorted(codes, key=rank)[: round(len(codes) / 10)]
    }


def build_emoji64(
    packages,  # Folder with the three unpacked npm packages
    path,  # Parquet file to write
) -> int:  # Number of pictures
    "Build emoji64 from its sources; the same library versions give the same bytes."
    files = list(emoji_files(packages))
    heldout, rows = heldout_code_points([e for e, _, _ in files]), []
    for e, style, file in progress(files, "emoji64"):
        if not file.is_file():
            raise SarError(f"{file.name} is missing from the {style} package; unpack it again")
        rows.append(
            [
                _webp(on_white(Image.open(file), 64)),
                f"{e['category']} / {style}",
                e["category"],
                style,
                e["unified"].lower(),
                (e["name"] or e["short_name"]).lower(),
                "test" if e["unified"] in heldout else "train",
            ]
        )
    classes = sorted({row[1] for row in rows})
    for row in rows:
        row[1] = classes.index(row[1])
    table = pa.table(dict(zip(EMOJI_COLUMNS, map(list, zip(*rows))))).replace_schema_metadata(
        {"classes": json.dumps(classes), "sources": json.dumps(EMOJI_SOURCES)}
    )
    with atomic_path(path) as tmp:
        pq.write_table(table, tmp, compression="none", row_group_size=1024)
    return len(table)


def _webp(image):
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True, quality=100, method=6, exact=True)
    return buffer.getvalue()


def pack_fashion16(
    root,  # As for `load_fashion_mnist`
    out,  # Folder to write the file into
    train: int = 20_000,  # Pictures of the training split
    test: int = 2_000,  # Held-out pictures
):
    "Write the embedded pictures: uint8 (N, 16, 16) and labels (N,) of both splits."
    packed = {}
    for split, n in (("train", train), ("test", test)):
        parts = load_fashion_mnist(root, split)
        keep = torch.arange(n) * len(parts["labels"]) // n
        # sums of four bytes and two, shifted: the rounding of `resize_square`
        blocks = parts["source"][keep, 0].view(n, 16, 2, 16, 2).sum((2, 4), dtype=torch.int32)
        packed[split] = ((blocks + 2) // 4).byte().numpy()
        packed[f"{split}_labels"] = parts["labels"][keep].byte().numpy()
    np.savez_compressed(Path(out) / FASHION16, **packed)


if __name__ == "__main__":
    what, source, out = sys.argv[1:]
    dict(emoji=build_emoji64, fashion=pack_fashion16)[what](source, out)
