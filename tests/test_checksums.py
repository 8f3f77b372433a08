"""Lists of hashes: what is written agrees with `sha256sum`, and what is wrong is named."""

import shutil
import subprocess

import pytest

from l2sae_jax.checksums import check_file, read_sums, write_sums


@pytest.fixture
def folder(tmp_path):
    """A folder with a list of two of its files, and of one beside it."""
    folder = tmp_path / "folder"
    (folder / "deep er").mkdir(parents=True)
    files = [folder / "a", folder / "deep er" / "b", tmp_path / "c"]
    for number, file in enumerate(files):
        file.write_bytes(bytes(number))
    write_sums(folder, files)
    return folder


def test_files_are_listed_by_their_paths_from_the_folder(folder):
    sums = read_sums(folder)
    assert list(sums) == ["a", "deep er/b", "../c"]
    nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sums["a"] == nothing
    for name in sums:
        check_file(folder, name, sums)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum")
def test_sha256sum_reads_the_list(folder):
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    assert subprocess.run(command, cwd=folder, capture_output=True).returncode == 0
    (folder / "deep er" / "b").write_bytes(b"else")
    assert subprocess.run(command, cwd=folder, capture_output=True).returncode == 1


def test_another_file_is_told(folder):
    sums = read_sums(folder)
    (folder / "deep er" / "b").write_bytes(b"else")
    told = rf"^{folder}/deep er/b: its SHA-256 is not what {folder}/SHA256SUMS says; copy or"
    with pytest.raises(ValueError, match=told):
        check_file(folder, "deep er/b", sums)
    with pytest.raises(ValueError, match="SHA256SUMS is damaged: it does not list d"):
        check_file(folder, "d", sums)


def test_a_missing_file_is_told(folder):
    (folder.parent / "c").unlink()
    told = rf"^{folder.parent}/c is missing, which {folder}/SHA256SUMS lists; copy or download"
    with pytest.raises(ValueError, match=told):
        read_sums(folder)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(ValueError, match=rf"^{folder}/SHA256SUMS is missing; copy or download"):
        read_sums(folder)


@pytest.mark.parametrize("line", ["", "a", "0" * 63 + "  a", "0" * 64 + " a", "G" * 64 + "  a"])
def test_a_line_that_is_none_is_told(folder, line):
    with open(folder / "SHA256SUMS", "a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=r"SHA256SUMS is damaged in line 4; copy or download"):
        read_sums(folder)


def test_bytes_that_are_no_text_are_told(folder):
    (folder / "SHA256SUMS").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="SHA256SUMS cannot be read: [^\n]*; copy or download"):
        read_sums(folder)
