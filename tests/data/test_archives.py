import gzip
import pickle
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from l2sae_jax.data.archives import open_archive

CONTENT = {"a.txt": b"one", "deep/er/b.bin": bytes(range(256)) * 100, "empty": b""}
KINDS = ("folder", "zip", "tar", "tar.gz", "tar.bz2", "tar.xz")


def make_archive(kind: str, tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    for name, content in CONTENT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    path = tmp_path / f"archive.{kind}"
    if kind == "folder":
        return folder
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.mkdir("deep")
            for name in CONTENT:
                archive.write(folder / name, name)
        return path
    with tarfile.open(path, "w:" + kind.removeprefix("tar").removeprefix(".")) as archive:
        archive.add(folder, ".")
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_lists_and_reads_every_member(kind, tmp_path):
    archive = open_archive(make_archive(kind, tmp_path))
    assert {name: archive.read(name) for name in archive.names()} == CONTENT


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickled_copy_reads_the_same(kind, tmp_path):
    archive = open_archive(make_archive(kind, tmp_path))
    copy = pickle.loads(pickle.dumps(archive))
    assert {name: copy.read(name) for name in copy.names()} == CONTENT


@pytest.mark.parametrize("kind", KINDS)
def test_threads_may_share_it(kind, tmp_path):
    archive = open_archive(make_archive(kind, tmp_path))
    names = list(CONTENT) * 30
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(archive.read, names)) == [CONTENT[name] for name in names]


@pytest.mark.parametrize("kind", KINDS)
def test_an_absent_member_is_named(kind, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.txt"):
        open_archive(make_archive(kind, tmp_path)).read("nowhere.txt")


def test_an_inflated_tar_disappears_with_its_archive(tmp_path):
    archive = open_archive(make_archive("tar.gz", tmp_path))
    inflated = archive._tar
    assert inflated.exists()
    del archive
    assert not inflated.exists()


def test_a_path_that_does_not_exist():
    with pytest.raises(FileNotFoundError, match=r"^nowhere\.zip: no such file or folder$"):
        open_archive("nowhere.zip")


@pytest.mark.parametrize(
    "content",
    [b"", b"plain text", gzip.compress(b"not a tar"), gzip.compress(b"x" * 9999)[:20]],
    ids=["nothing", "text", "no tar", "cut short"],  # gzip notes the time: no name for a test
)
def test_a_file_that_is_no_archive(content, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="neither a folder nor a readable zip or tar") as caught:
        open_archive(path)
    assert "\n" not in str(caught.value)


def test_a_damaged_zip_member_is_named(tmp_path):
    path = make_archive("zip", tmp_path)
    data = bytearray(path.read_bytes())
    start = data.index(b"deep/er/b.bin") + len("deep/er/b.bin")
    data[start + 20 : start + 60] = bytes(40)
    path.write_bytes(data)
    archive = open_archive(path)
    assert archive.read("a.txt") == b"one"
    with pytest.raises(ValueError, match="^deep/er/b.bin: cannot be read"):
        archive.read("deep/er/b.bin")


def test_a_tar_cut_short_is_an_error(tmp_path):
    path = make_archive("tar", tmp_path)
    archive = open_archive(path)
    offset, _ = archive._index["deep/er/b.bin"]
    path.write_bytes(path.read_bytes()[: offset + 10])
    with pytest.raises(ValueError, match="cut short"):
        archive.read("deep/er/b.bin")
