"""Images as documents: row by row, red green blue; all of one shape; what is no such image is refused or left out."""

import json
import pickle

import numpy as np
import PIL.Image
import pytest

from data_pipeline.check.run import check
from data_pipeline.config import SourceConfig
from data_pipeline.errors import DataError
from data_pipeline.image_shape import ImageShape
from data_pipeline.prepare.documents import DocumentOptions
from data_pipeline.prepare.filters import Filters
from data_pipeline.prepare.images import common_shape, images_of
from data_pipeline.prepare.sources import find_files
from data_pipeline.read.loader import TrainRows
from data_pipeline.read.split import open_split
from data_pipeline.shard_index import load_index
from launcher.cli import run
from tests.data_pipeline.making import folder_content, prepared

SHAPE = ImageShape(4, 4)
SIZE = SHAPE.num_bytes


def pixels(count, *, shape=SHAPE, seed=0):
    """uint8 [N, H, W, 3] noise."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape, 3), dtype=np.uint8)


def write_pngs(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        PIL.Image.fromarray(image).save(folder / f"{number:03d}.png")
    return folder


def planes(images):
    """uint8 [N, 3 * H * W]: all reds, all greens, all blues of each."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def written(tmp_path, form, images):
    """The same images as one of the forms that are read."""
    path = tmp_path / form
    if form == "folder":
        return write_pngs(path, images)
    if form == "array.npy":
        np.save(path, images)
    if form == "planes.npy":
        np.save(path, planes(images))
    if form == "imagenet.npz":
        np.savez(path, data=planes(images), labels=np.arange(len(images)), mean=np.zeros(3))
    if form == "packed.npz":
        np.savez_compressed(path, images=images)
    return path


def all_of(path):
    return b"".join(image.data for file in find_files([str(path)]) for image in images_of(file))


def images_prepared(folder, paths, *, broken="fail", **options):
    documents = DocumentOptions(broken=broken, image_shape=SHAPE)
    return prepared(folder, paths, documents=documents, **options)


@pytest.mark.parametrize("form", ["folder", "array.npy", "planes.npy", "imagenet.npz", "packed.npz"])
def test_every_form_gives_the_same_bytes_row_by_row_with_the_channels_side_by_side(tmp_path, form):
    images = pixels(5)
    assert all_of(written(tmp_path, form, images)) == images.tobytes()


def test_the_binary_version_of_cifar_10_is_read_without_its_labels(tmp_path):
    images = pixels(3, shape=ImageShape(32, 32))
    records = np.concatenate([np.full((3, 1), 7, dtype=np.uint8), planes(images)], axis=1)
    (tmp_path / "data_batch_1.bin").write_bytes(records.tobytes())
    assert all_of(tmp_path / "data_batch_1.bin") == images.tobytes()


def test_a_grey_picture_has_three_equal_channels(tmp_path):
    grey = pixels(1)[0, :, :, 0]
    PIL.Image.fromarray(grey).save(tmp_path / "grey.png")
    assert all_of(tmp_path / "grey.png") == np.repeat(grey[:, :, None], 3, axis=2).tobytes()


def test_a_dataset_says_what_it_is_made_of_and_splits_between_images(tmp_path):
    images = pixels(25)
    index = images_prepared(tmp_path / "d", [written(tmp_path, "array.npy", images)], splits="valid=0.05,test=0.13")
    assert (index.kind, index.image_shape) == ("images", SHAPE) == (load_index(tmp_path / "d").kind, SHAPE)
    assert {name: split.documents for name, split in index.splits.items()} == {"train": 21, "valid": 1, "test": 3}
    valid = open_split(tmp_path / "d", "valid")
    assert valid.read(0, valid.num_tokens).astype(np.uint8).tobytes() == images[21:22].tobytes()


def test_a_training_row_of_one_image_reads_exactly_that_image(tmp_path):
    images = pixels(6)
    images_prepared(tmp_path / "d", [written(tmp_path, "folder", images)])
    rows = TrainRows([SourceConfig(path=str(tmp_path / "d"))], seed=1)
    batch = rows.read(sequence_length=SIZE, data_pass=0, first_sample=0, rows=range(5))
    read = {row.numpy().astype(np.uint8).tobytes() for row in batch.tokens}
    assert read == {image.tobytes() for image in images[:5]}


def test_the_output_depends_on_neither_workers_nor_the_form_of_the_input(tmp_path):
    images = pixels(9)
    images_prepared(tmp_path / "a", [written(tmp_path, "folder", images)], workers=2)
    images_prepared(tmp_path / "b", [written(tmp_path, "imagenet.npz", images)], workers=1)
    ours, theirs = folder_content(tmp_path / "a"), folder_content(tmp_path / "b")
    assert {name: ours[name] for name in ours if name.endswith(".tar")} == {
        name: theirs[name] for name in theirs if name.endswith(".tar")
    }


def wrong_inputs(tmp_path):
    other = ImageShape(4, 5)
    np.save(tmp_path / "wider.npy", pixels(2, shape=other))
    np.save(tmp_path / "float.npy", pixels(2).astype(np.float32))
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(pixels(2)))
    np.savez(tmp_path / "unnamed.npz", first=pixels(1), second=pixels(1))
    (tmp_path / "cut.npy").write_bytes(written(tmp_path, "array.npy", pixels(2)).read_bytes()[:-1])
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"data": planes(pixels(2))}))
    (tmp_path / "notes.txt").write_text("no image")
    PIL.Image.fromarray(np.zeros((4, 4, 4), dtype=np.uint8), "RGBA").save(tmp_path / "alpha.png")
    (tmp_path / "torn.png").write_bytes((write_pngs(tmp_path / "whole", pixels(1)) / "000.png").read_bytes()[:60])
    return {
        "wider.npy": "image 1 is 4x5, the dataset's first one 4x4",
        "float.npy": "float32",
        "objects.npy": "an array object",
        "fortran.npy": "Fortran",
        "unnamed.npz": "there: first, second",
        "cut.npy": "the file ends in the middle of an image",
        "data_batch_1": "a Python pickle",
        "notes.txt": "not an image",
        "alpha.png": "mode RGBA",
        "torn.png": "torn.png: ",
    }


def test_every_wrong_file_is_refused_in_one_line_that_names_it_and_the_way_out(tmp_path):
    for name, said in wrong_inputs(tmp_path).items():
        with pytest.raises(DataError) as caught:
            list(images_of(find_files([str(tmp_path / name)])[0], shape=SHAPE))
        (problem,) = caught.value.problems
        assert problem.startswith(f"{tmp_path / name}: ") and said in problem, problem
        assert "--broken skip" in problem and "\n" not in problem


def test_wrong_files_are_left_out_and_counted_where_that_is_asked(tmp_path):
    wrong, good = wrong_inputs(tmp_path), written(tmp_path, "folder", pixels(3))
    paths = [*(tmp_path / name for name in wrong), good]
    with pytest.raises(DataError, match="wider"):
        images_prepared(tmp_path / "refused", paths)
    index = images_prepared(tmp_path / "d", paths, broken="skip")
    assert index.splits["train"].documents == 3
    assert index.made["met"]["broken files left out"]["count"] == len(wrong)


def test_the_first_readable_image_settles_the_shape(tmp_path):
    wrong_inputs(tmp_path)
    files = tuple(find_files([str(tmp_path / "notes.txt"), str(tmp_path / "wider.npy")]))
    assert common_shape(files, skip_broken=True) == ImageShape(4, 5)
    with pytest.raises(DataError, match="not an image"):
        common_shape(files, skip_broken=False)
    with pytest.raises(DataError, match="no image in the 1 files"):
        common_shape(files[:1], skip_broken=True)


def test_equal_images_can_be_left_out(tmp_path):
    images = np.concatenate([pixels(3), pixels(3)])
    path = written(tmp_path, "array.npy", images)
    assert images_prepared(tmp_path / "d", [path], filters=Filters(deduplicate="exact")).totals.documents == 3


@pytest.mark.parametrize(("length", "allowed"), [(SIZE, True), (SIZE // 3, True), (2 * SIZE, True), (SIZE - 1, False)])
def test_a_sequence_length_must_meet_every_image_at_the_same_place(tmp_path, length, allowed):
    images_prepared(tmp_path / "d", [written(tmp_path, "array.npy", pixels(5))])
    problems = check([SourceConfig(path=str(tmp_path / "d"))], sequence_lengths=[length], vocab_size=256)
    assert problems == [] if allowed else [f"nearest: {SIZE}" in problem for problem in problems] == [True]


def test_the_verbs_prepare_and_inspect_images_and_refuse_text_options(tmp_path, capfd):
    folder = write_pngs(tmp_path / "pictures", pixels(40))
    prepare = ["data", "prepare", "--kind", "images", "--input", str(folder), "--output", str(tmp_path / "d")]
    assert run([*prepare, "--tokenizer", "sentencepiece", "--field", "body"]) == 2
    refused = [line for line in capfd.readouterr().err.splitlines() if "--kind images" in line]
    assert len(refused) == 2 and "--tokenizer" in refused[0] and "--field" in refused[1]
    assert run(prepare) == 0
    assert "36 images" in capfd.readouterr().out
    assert run(["data", "inspect", str(tmp_path / "d")]) == 0
    assert "kind images, 4x4 pixels of 3 bytes: 48 tokens each" in capfd.readouterr().out
    assert run(["data", "inspect", str(tmp_path / "d"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["image_shape"] == [4, 4]


def test_the_same_folder_as_text_is_another_dataset(tmp_path, capfd):
    folder = write_pngs(tmp_path / "pictures", pixels(40))
    plain = ["data", "prepare", "--input", str(folder), "--output", str(tmp_path / "d")]
    assert run([*plain, "--kind", "images"]) == 0
    assert run(plain) == 2
    assert "different: documents" in capfd.readouterr().err
