"""Small sources of the forms in which data sets are published, and reading all of their images."""

import gzip
import io
import json
import struct
import zipfile

import numpy as np

from frepo_scale.data.decode import UnreadableImage
from frepo_scale.data.images import in_file_order, read_rows

WNIDS = ("n01440764", "n01443537", "n02119789")
# In another order than that of the WordNet ids, as in the ILSVRC devkit.
DEVKIT = "n02119789 1 kit_fox\nn01443537 2 goldfish\nn01440764 3 tench\n"


def contents(part):
    """Label and bytes, or the error, of every image by name."""
    found = {}
    for row, data in read_rows(part, in_file_order(part).tolist()):
        value = data if isinstance(data, UnreadableImage) else bytes(data)
        assert part.names[row] not in found
        found[part.names[row]] = (int(part.labels[row]), value)
    return found


def damaged(data, good):
    """A file cut, or with a bit flipped: bytes, and whether it is cut."""
    from hypothesis import strategies as st

    at = data.draw(st.integers(0, len(good) - 1))
    if data.draw(st.booleans()):
        return good[:at], True
    bad = bytearray(good)
    bad[at] ^= 1 << data.draw(st.integers(0, 7))
    return bytes(bad), False


def webdataset(path, images, shards=2, test="validation", names=True, extra=()):
    """Shards of four samples, label i % 3; `extra` are names of other members of the first."""
    files = {}
    for split, count in (("train", shards), (test, 1)):
        for shard in range(count):
            members = {}
            for i in range(4 * shard, 4 * shard + 4):
                key = f"{split}{i}"
                members[f"{key}.jpg"] = images.encoded(i + 100 * (split != "train"))
                members[f"{key}.cls"] = str(i % 3).encode()
                members[f"{key}.json"] = json.dumps({"key": key}).encode()
            if shard == 0 and split == "train":
                members |= {name: b"x" for name in extra}
            files[f"set-{split}-{shard:04}.tar"] = images.tar_of(members)
    if names:
        files["classnames.txt"] = b"cat\nant\nbee\n"
    return images.write(path, files)


def batches(path, images, kind="npz", side=4):
    """Two training batches and one of validation; returns the folder and the pixels by split."""
    rng = np.random.default_rng(0)
    path.mkdir(parents=True)
    pixels = {}
    for name, count in (("train_data_batch_1", 6), ("train_data_batch_2", 3), ("val_data", 3)):
        x = rng.integers(0, 256, (count, 3, side, side)).astype(np.uint8)
        y = 1 + np.arange(count) % 3
        pixels[name] = x.transpose(0, 2, 3, 1)
        write_batch(path, name, kind, x.reshape(count, -1), y)
    (path / "map_clsloc.txt").write_text(DEVKIT)
    return path, pixels


def write_batch(path, name, kind, data, labels):
    """One batch, as .npz or as a pickle."""
    import pickle

    mean = data.sum(0, dtype=float)
    if kind == "pickle":
        value = {"data": data, "labels": labels.tolist(), "mean": mean}
        (path / name).write_bytes(pickle.dumps(value, protocol=3))
    else:
        save = np.savez_compressed if kind == "packed" else np.savez
        save(path / f"{name}.npz", data=data, labels=labels, mean=mean)


def parquet(path, images, names=("cat", "ant", "bee"), test="validation", **options):
    """Two training files and one of another split, as Hugging Face writes them; label i % 3."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.mkdir(parents=True, exist_ok=True)
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", kind), ("label", pa.int64())], metadata)
    for split, shard, shards in (("train", 0, 2), ("train", 1, 2), (test, 0, 1)):
        first = 4 * shard + 100 * (split != "train")
        rows = [
            {"image": {"bytes": images.encoded(i), "path": f"{i}.jpg"}, "label": i % 3}
            for i in range(first, first + 4)
        ]
        file = path / f"{split}-{shard:05}-of-{shards:05}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema), file, row_group_size=3, **options)
    return path


def zip_of(files, kind=zipfile.ZIP_DEFLATED):
    """A zip with these files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", kind) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def cub_files(images, count=12, classes=3):
    """The files of a small CUB-200 by path, image i of class i % classes; every third is a test."""
    folders = [f"{k + 1:03}.Bird_{k}" for k in range(classes)]
    paths = [f"{folders[i % classes]}/bird_{i}.jpg" for i in range(count)]
    tables = {
        "images.txt": [f"{i + 1} {path}" for i, path in enumerate(paths)],
        "image_class_labels.txt": [f"{i + 1} {i % classes + 1}" for i in range(count)],
        "train_test_split.txt": [f"{i + 1} {int(i // 3 % 3 != 2)}" for i in range(count)],
        "classes.txt": [f"{k + 1} {folder}" for k, folder in enumerate(folders)],
        "bounding_boxes.txt": ["1 0 0 1 1"],
    }
    files = {f"CUB_200_2011/{n}": "\n".join(t).encode() + b"\n" for n, t in tables.items()}
    pictures = {f"CUB_200_2011/images/{p}": images.encoded(i) for i, p in enumerate(paths)}
    return {"attributes.txt": b"1 x\n"} | files | pictures


def idx_files(seed=0, count=12):
    """The four idx files by name, gzip."""
    rng = np.random.default_rng(seed)
    files = {}
    for part, n in (("train", count), ("t10k", count // 2)):
        for kind, array in (
            ("images", rng.integers(0, 256, (n, 12, 12)).astype(np.uint8)),
            ("labels", np.arange(n, dtype=np.uint8) % 3),
        ):
            head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
            files[f"{part}-{kind}-idx{array.ndim}-ubyte.gz"] = gzip.compress(head + array.tobytes())
    return files


def medmnist(path, channels=3, **other):
    """An .npz as MedMNIST stores it."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 9), ("val", 4), ("test", 6)):
        shape = (n, 8, 8, 3) if channels == 3 else (n, 8, 8)
        arrays[f"{part}_images"] = rng.integers(0, 256, shape).astype(np.uint8)
        arrays[f"{part}_labels"] = np.arange(n, dtype=np.uint8)[:, None] % 3
    arrays |= other
    np.savez_compressed(path, **{k: v for k, v in arrays.items() if v is not None})
    return path
