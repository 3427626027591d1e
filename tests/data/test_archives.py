import errno
import io
import json
import os
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import split_data
from video_module import machine
from video_module.data import archives
from video_module.data.archives import class_root, splits_folder, unpacked
from video_module.errors import InputError

ODD_NAMES = ["a [1] (2) + !.avi", "50% & more #3.avi", "Ünï.avi"]


def vint(value: int) -> bytes:
    """RAR 5's integers: seven bits a byte, the lowest first."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def write_rar(path: Path, files: dict[str, bytes]) -> Path:
    """An archive in RAR 5's format whose files are stored, not compressed (rarlab.com/technote.htm)."""

    def block(content: bytes, data: bytes = b"") -> bytes:
        header = vint(len(content)) + content
        return zlib.crc32(header).to_bytes(4, "little") + header + data

    blocks = [b"Rar!\x1a\x07\x01\x00", block(vint(1) + vint(0) + vint(0))]
    for name, data in files.items():
        encoded = name.encode()
        fields = [vint(2), vint(2), vint(len(data)), vint(4), vint(len(data)), vint(0o100644)]
        fields += [zlib.crc32(data).to_bytes(4, "little"), vint(0), vint(1), vint(len(encoded)), encoded]
        blocks.append(block(b"".join(fields), data))
    path.write_bytes(b"".join(blocks) + block(vint(5) + vint(0) + vint(0)))
    return path


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    compression = {".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".xz": "xz"}.get(path.suffix, "")
    with tarfile.open(path, f"w:{compression}") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


WRITERS = {".rar": write_rar, ".zip": write_zip, ".tar": write_tar, ".tar.gz": write_tar, ".tgz": write_tar}


def content_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("suffix", WRITERS)
def test_whole_archives_whatever_the_names(tmp_path, suffix):
    files = {f"data/wave/{name}": name.encode() * 50 for name in ODD_NAMES} | {
        "data/sit/x.avi": b"",
        "data/a.txt": b"t",
    }
    archive = WRITERS[suffix](
        tmp_path / f"set{suffix}", files | {"__MACOSX/data/._x.avi": b"junk", "data/.DS_Store": b"j"}
    )
    folder = unpacked(archive)
    assert folder == tmp_path / "set"
    assert content_of(folder) == files
    assert class_root(folder) == folder / "data"


def test_a_folder_is_left_alone(tmp_path):
    assert unpacked(tmp_path) == tmp_path


@pytest.fixture
def nested(tmp_path) -> Path:
    """As HMDB51 is published: a .rar of one .rar for each class, in which the class is a folder."""
    inner = {}
    for label in ("wave", "sit"):
        files = {f"{label}/{number}.avi": f"{label}{number}".encode() * 99 for number in range(3)}
        inner[f"{label}.rar"] = write_rar(tmp_path / "inner.rar", files).read_bytes()
    (tmp_path / "inner.rar").unlink()
    return write_rar(tmp_path / "hmdb51_org.rar", inner)


def test_an_archive_of_archives(nested):
    folder = unpacked(nested)
    assert sorted(content_of(folder)) == [f"{label}/{number}.avi" for label in ("sit", "wave") for number in range(3)]
    assert content_of(folder)["wave/2.avi"] == b"wave2" * 99
    assert sorted(path.name for path in nested.parent.iterdir()) == ["hmdb51_org", "hmdb51_org.rar"]


@pytest.mark.parametrize("dies_at", range(1, 9))
def test_an_interruption_costs_only_what_was_under_way(nested, monkeypatch, dies_at):
    """Killed at the n-th file, at each n there is: the next run writes the others, and ends with the same folder."""
    copy, written = archives.shutil.copyfileobj, []

    def dying(source, file, length):
        written.append(Path(file.name).name)
        if len(written) == dies_at:
            file.write(b"half")
            raise KeyboardInterrupt
        copy(source, file, length)

    monkeypatch.setattr(archives.shutil, "copyfileobj", dying)
    with pytest.raises(KeyboardInterrupt):
        unpacked(nested)
    assert not (nested.parent / "hmdb51_org").exists()
    done = dies_at - 1
    written.clear()
    dies_at = None
    folder = unpacked(nested)
    assert len(written) == 8 - done  # two archives and six files in all
    assert len(content_of(folder)) == 6


def test_what_is_finished_is_not_done_again(nested, monkeypatch, capsys):
    folder = unpacked(nested)
    monkeypatch.setattr(archives, "_unpack", lambda *_: pytest.fail("unpacked again"))
    assert unpacked(nested) == folder
    assert "already unpacked" in capsys.readouterr().out
    os.utime(nested, (1, 1))
    with pytest.raises(InputError, match=r"was unpacked from an older hmdb51_org.rar; delete it"):
        unpacked(nested)


def test_what_was_begun_from_an_earlier_archive_is_not_kept(tmp_path, monkeypatch):
    archive, copy = (
        write_zip(tmp_path / "x.zip", {"wave/old.avi": b"1", "wave/y.avi": b"2"}),
        archives.shutil.copyfileobj,
    )

    def dying(source, file, length):
        if "y" in Path(file.name).name:
            raise KeyboardInterrupt
        copy(source, file, length)

    with monkeypatch.context() as patch:
        patch.setattr(archives.shutil, "copyfileobj", dying)
        with pytest.raises(KeyboardInterrupt):
            unpacked(archive)
    assert list((tmp_path / "x.partial").rglob("old.avi"))
    write_zip(archive, {"wave/new.avi": b"123"})
    os.utime(archive, (1, 1))
    assert content_of(unpacked(archive)) == {"wave/new.avi": b"123"}


def test_a_folder_of_the_user_is_not_touched(nested):
    (nested.parent / "hmdb51_org").mkdir()
    with pytest.raises(InputError, match=r"already exists where hmdb51_org.rar would be unpacked"):
        unpacked(nested)


HOSTILE = ["../out.avi", "a/../../out.avi", "/tmp/out.avi", "..\\out.avi", "C:\\out.avi", "C:/out.avi"]


@pytest.mark.parametrize("suffix", [".rar", ".zip", ".tar"])
@pytest.mark.parametrize("name", HOSTILE)
def test_no_member_leaves_its_folder(tmp_path, suffix, name):
    (tmp_path / "deep").mkdir()
    archive = WRITERS[suffix](tmp_path / "deep" / f"x{suffix}", {"wave/fine.avi": b"1", name: b"2"})
    before = set(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="would be written outside"):
        unpacked(archive)
    new = {path for path in set(tmp_path.rglob("*")) - before if path.is_file() and path.name != ".unpacked.json"}
    assert not new


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_of_a_tar_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        info = tarfile.TarInfo("wave/link")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(InputError, match="contains a link or device, 'wave/link'"):
        unpacked(tmp_path / "x.tar")


def test_a_link_in_a_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("wave/link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(InputError, match="contains a link or device"):
        unpacked(tmp_path / "x.zip")


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("content", [b"", b"text", "half"])
def test_damaged_archives(tmp_path, suffix, content):
    archive = tmp_path / f"x{suffix}"
    if content == "half":
        WRITERS[suffix](archive, {f"wave/{number}.avi": os.urandom(5000) for number in range(4)})
        content = archive.read_bytes()[:9000]
    archive.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.\S+: damaged, or not the format its name says"):
        unpacked(archive)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".tar.xz"])
@pytest.mark.parametrize("place", [0.5, 1.0])
def test_flipped_bytes_in_a_compressed_tar_are_told_before_a_file_is_written(tmp_path, suffix, place):
    """In the midst of the files, and in the checksum behind them, which tarfile by itself does not read."""
    archive = write_tar(tmp_path / f"x{suffix}", {f"wave/{number}.avi": os.urandom(50_000) for number in range(4)})
    content = bytearray(archive.read_bytes())
    content[min(int(len(content) * place), len(content) - 5)] ^= 1
    archive.write_bytes(bytes(content))
    for _ in range(2):  # nor does a second run take it for whole
        with pytest.raises(
            InputError, match=r"x\.tar\.\S+: damaged, or not the format its name says \(.+\); download it again"
        ):
            unpacked(archive)
    assert not list(tmp_path.rglob("*.avi"))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("suffix", [".rar", ".tar"])
def test_a_damaged_header_is_not_taken_for_the_end(tmp_path, suffix):
    """All that follows it would be missing without a word."""
    archive = WRITERS[suffix](tmp_path / f"x{suffix}", {f"wave/{number}.avi": b"1" * 2000 for number in range(4)})
    content = bytearray(archive.read_bytes())
    content[content.index(b"wave/2.avi")] ^= 1
    archive.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"x\.\w+: damaged"):
        unpacked(archive)


def test_the_disks_errors_are_not_the_archives(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archives.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        unpacked(write_tar(tmp_path / "x.tar.gz", {"wave/1.avi": b"1"}))


def test_a_zip_of_a_method_that_python_has_not(tmp_path):
    """Deflate64, as Windows packs files above 2 GB."""
    archive = write_zip(tmp_path / "x.zip", {"wave/1.avi": b"1" * 99})
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(signature) + offset] = 9
    archive.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"x\.zip: uses a compression that Python cannot read \(.+\); unpack it with"):
        unpacked(archive)


@pytest.mark.parametrize(
    ("members", "place"),
    [
        ({"run.zip": {"a.avi": b"1"}, "run/b.avi": b"2"}, "run"),
        ({"x.zip": {"a.avi": b"1"}, "x.rar": {"b.avi": b"2"}}, "x.zip"),
    ],
)
def test_an_inner_archive_whose_place_is_taken_is_not_lost(tmp_path, members, place):
    """What stands there would be taken for what an earlier run made of it."""
    content = {}
    for name, inner in members.items():
        content[f"in/{name}"] = inner
        if isinstance(inner, dict):
            content[f"in/{name}"] = WRITERS[Path(name).suffix](
                tmp_path / f"inner{Path(name).suffix}", inner
            ).read_bytes()
    with pytest.raises(InputError, match=rf"would overwrite 'in/{place}'; unpack it yourself"):
        unpacked(write_zip(tmp_path / "set.zip", content))
    assert not (tmp_path / "set").exists()


@contextmanager
def a_disk_that_ignores_case(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It knows a folder by any letters."""
    exists = Path.exists
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", lambda path: exists(path) or exists(path.with_name(path.name.swapcase())))
        yield


def test_the_place_of_an_inner_archive_is_taken_in_any_letters(tmp_path, monkeypatch):
    inner = write_zip(tmp_path / "inner.zip", {"a.avi": b"1"}).read_bytes()
    archive = write_zip(tmp_path / "set.zip", {"Run.zip": inner, "run/b.avi": b"2"})
    with (
        a_disk_that_ignores_case(monkeypatch),
        pytest.raises(InputError, match=r"unpacking 'Run\.zip' would overwrite 'run'"),
    ):
        unpacked(archive)
    if not (tmp_path / "SET.PARTIAL").exists():
        assert content_of(unpacked(archive)) == {"Run/a.avi": b"1", "run/b.avi": b"2"}


def test_a_full_disk_is_told_before(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "x.zip", {"wave/1.avi": bytes(10_000)})
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 9_999})())
    with pytest.raises(InputError, match=r"needs 0\.0 GB of disk space, but only 0\.0 GB is free"):
        unpacked(archive)


def test_from_archives_to_a_split(drawn_clips, tmp_path, capsys):
    """As with HMDB51: the videos and the official split files both come as .rar."""
    clips = {label: sorted((drawn_clips / label).iterdir()) for label in ("sit", "wave")}
    inner = {}
    for label, files in clips.items():
        rar = write_rar(tmp_path / "inner", {f"{label}/{path.name}": path.read_bytes() for path in files})
        inner[f"{label}.rar"] = rar.read_bytes()
    videos = write_rar(tmp_path / "hmdb51_org.rar", inner)
    lines = {
        f"testTrainMulti_7030_splits/{label}_test_split1.txt": "".join(
            f"{path.name} {2 if number < 2 else 1} \n" for number, path in enumerate(files)
        ).encode()
        for label, files in clips.items()
    }
    splits = write_rar(tmp_path / "test_train_splits.rar", lines)
    command = ["--input_dir", str(videos), "--splits_dir", str(splits), "--protocol", "hmdb51"]
    split_data.main([*command, "--output_dir", str(tmp_path / "data")])
    record = json.loads((tmp_path / "data" / "split.json").read_text())
    assert record["counts"]["test"] == 4
    assert sum(record["counts"].values()) == 12
    split_data.main([*command, "--output_dir", str(tmp_path / "again")])
    assert "already unpacked" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["wave/a:b.avi", "CON.avi", "wave/nul", "wave./x.avi", "wave/what?.avi", "wave/x.avi "]
)
def test_names_that_windows_has_not_are_told_before(tmp_path, monkeypatch, name):
    """A colon would hide the file in another one without a word."""
    monkeypatch.setattr(machine, "ON_WINDOWS", True)
    archive = write_zip(tmp_path / "x.zip", {"wave/fine.avi": b"1", "wave/Console (1) + !.avi": b"1", name: b"2"})
    with pytest.raises(InputError, match=r"is not a valid file name on Windows") as error:
        unpacked(archive)
    assert repr(name) in str(error.value)
    assert not list((tmp_path / "x.partial").rglob("*.avi"))
    monkeypatch.setattr(machine, "ON_WINDOWS", False)
    if sys.platform != "win32":
        assert len(content_of(unpacked(archive))) == 3


@pytest.mark.parametrize(
    ("member", "one", "other"), [("wave/A.avi", "wave/a.avi", "wave/A.avi"), ("Wave/y.avi", "wave", "Wave")]
)
def test_names_that_differ_in_case_alone_are_two_or_an_error(tmp_path, monkeypatch, member, one, other):
    """Of files and of classes."""
    archive = write_zip(tmp_path / "x.zip", {"wave/a.avi": b"1", "wave/b.avi": b"3", member: b"2"})
    with (
        a_disk_that_ignores_case(monkeypatch),
        pytest.raises(InputError, match=rf"'{one}' and '{other}' differ only in case"),
    ):
        unpacked(archive)
    if not (tmp_path / "X.PARTIAL").exists():
        assert len(content_of(unpacked(archive))) == 3


def test_an_archive_without_classes(tmp_path):
    archive = write_zip(tmp_path / "x.zip", {"readme.txt": b"t"})
    with pytest.raises(InputError, match="no class folders"):
        split_data.main(["--input_dir", str(archive), "--output_dir", str(tmp_path / "data")])


def test_no_program_for_rar(tmp_path, monkeypatch):
    """A compressed member needs one; the line says which."""
    import rarfile

    def none(*_, **__):
        raise rarfile.RarCannotExec("Cannot find working tool")

    archive = write_rar(tmp_path / "x.rar", {"wave/1.avi": b"1"})
    monkeypatch.setattr(rarfile.RarFile, "open", none)
    with pytest.raises(InputError, match="requires unrar, unar, 7z or bsdtar"):
        unpacked(archive)


@pytest.mark.parametrize(("name", "found"), [("a/b/trainlist01.txt", "a/b"), ("wave_test_split1.txt", ""), ("x", "")])
def test_the_folder_of_split_files_is_found_in_an_archive(name, found, tmp_path):
    archive = write_zip(tmp_path / "files.zip", {name: b"1"})
    assert splits_folder(archive) == tmp_path / "files" / found
    assert splits_folder(tmp_path / "files") == tmp_path / "files"
