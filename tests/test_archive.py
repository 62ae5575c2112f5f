"""Tars and zips: the members that Python's own libraries find, and nothing but BadFile or BadRow from hostile ones."""

import io
import os
import stat
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from fixtures.make import link, picture, tar, zip_
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from hfds.archive import Member, Reader, tar_members, unsafe, zip_members
from hfds.errors import BadFile, BadRow
from hfds.picture import LARGEST

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
FUZZ = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def listed(path: str | Path, file: str = "a.tar") -> list[Member]:
    with Reader(str(path)) as reader:
        return list(tar_members(reader, file))


def entry(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, **said: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    for key, value in said.items():
        setattr(info, key, value)
    return info


def packed(entries: list[tuple[tarfile.TarInfo, bytes]], format_: str = "pax", **options: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=FORMATS[format_], encoding="utf-8", **options) as archive:
        for info, data in entries:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def sealed(header: bytes, **fields: tuple[int, bytes]) -> bytes:
    """A tar header with some of its fields, each (offset, bytes), written over, and its checksum made right again."""
    block = bytearray(header)
    for at, value in fields.values():
        block[at : at + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def header(name: str = "a.jpg", /, **fields: tuple[int, bytes]) -> bytes:
    return sealed(entry(name).tobuf(tarfile.GNU_FORMAT), **fields)


def block(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def oracle(path: Path) -> list[tuple[str, int, int, str]]:
    """What Python's tarfile says of every member that is no folder."""
    found = []
    with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as archive:
        for info in archive:
            if not info.isdir():
                kind = "file" if info.isreg() and not info.issparse() else "other"
                name = info.name.encode("utf-8", "backslashreplace").decode()
                found.append((name, info.offset_data, info.size, "link" if info.issym() or info.islnk() else kind))
    return found


# Tars that are whole

parts = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=90)
names = st.lists(parts, min_size=1, max_size=5).map("/".join)
kinds = st.sampled_from([tarfile.REGTYPE] * 4 + [tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE,
                                                 tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])  # fmt: skip


@settings(FUZZ, max_examples=150)
@given(
    members=st.lists(st.tuples(names, kinds, st.binary(max_size=1300), names), max_size=6),
    format_=st.sampled_from(sorted(FORMATS)),
)
@example([("ab/" * 100 + "é" * 100, tarfile.REGTYPE, b"x" * 5000, ""), ("b", tarfile.REGTYPE, b"y", "")], "gnu")
@example([("ab/" * 100 + "é" * 100, tarfile.REGTYPE, b"x" * 5000, ""), ("b", tarfile.REGTYPE, b"y", "")], "pax")
@example([("p" * 120 + "/" + "n" * 99, tarfile.REGTYPE, b"x" * 512, "")], "ustar")
@example([("\udcff.jpg", tarfile.REGTYPE, b"", "")], "ustar")
@example([("a" * 101, tarfile.SYMTYPE, b"", "t" * 300), ("a", tarfile.REGTYPE, b"1", "")], "gnu")
@example([("caf\udce9.png", tarfile.REGTYPE, b"1", ""), ("ü" * 60, tarfile.REGTYPE, b"2", "")], "pax")
def test_a_whole_tar_has_the_members_that_tarfile_finds(
    tmp_path: Path, members: list[tuple[str, bytes, bytes, str]], format_: str
) -> None:
    has_data = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
    entries = [(entry(name, kind, linkname=to), data if kind in has_data else b"") for name, kind, data, to in members]
    try:
        data = packed(entries, format_)
    except ValueError:  # a name that ustar cannot hold
        assume(False)
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    found = listed(path)
    assert [(m.name, m.offset, m.size, m.kind) for m in found] == oracle(path)
    for member in found:
        assert member.head == data[member.offset : member.offset + min(member.size, 3584)]


@pytest.mark.parametrize("format_", ["gnu", "pax"])
def test_members_of_more_than_8_gib(tmp_path: Path, format_: str) -> None:
    size = (9 << 30) + 5
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        file.write(entry("a.jpg", size=size).tobuf(FORMATS[format_], "utf-8", "surrogateescape"))
        start = file.tell()
        file.seek(start + -(-size // 512) * 512)
        file.write(block(entry("b.jpg", size=1).tobuf() + b"x") + bytes(1024))
    assert [(m.name, m.offset, m.size, m.kind) for m in listed(path)] == oracle(path)
    assert listed(path)[0][1:3] == (start, size)


def test_a_global_pax_header_speaks_for_all_members(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    for said in ({"comment": "48c0e1b94c"}, {"path": "renamed.jpg"}):
        path.write_bytes(packed([(entry("a.jpg"), b"1"), (entry("é.jpg"), b"22")], "pax", pax_headers=said))
        assert [(m.name, m.offset, m.size, m.kind) for m in listed(path)] == oracle(path)


def test_what_pax_says_of_path_and_size_is_what_counts(tmp_path: Path) -> None:
    lying = sealed(header("short.jpg"), size=(124, b"00000000007\0"))
    record = b"19 path=real/p.jpg\n12 size=600\n"
    pax = sealed(header("PaxHeader", kind=(156, b"x"), size=(124, b"%011o\0" % len(record)))) + block(record)
    path = tmp_path / "a.tar"
    path.write_bytes(pax + lying + block(b"x" * 600) + block(header("b.jpg")) + bytes(1024))
    assert [(m.name, m.size) for m in listed(path)] == [("real/p.jpg", 600), ("b.jpg", 0)]
    assert [(m.name, m.offset, m.size, m.kind) for m in listed(path)] == oracle(path)


def test_what_has_no_content_is_not_skipped_over(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    for kind in b"123456":
        first = header("first", kind=(156, bytes([kind])), size=(124, b"00000001000\0"))
        path.write_bytes(first + header("b.jpg") + bytes(1024))
        assert [m.name for m in listed(path)][-1:] == ["b.jpg"]
        assert [m.name for m in listed(path)] == [name for name, *_ in oracle(path)]


def test_a_folder_of_an_old_tar_is_no_member(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(header("folder/", kind=(156, b"\0"), magic=(257, bytes(8))) + header("folder/b.jpg") + bytes(1024))
    assert [m.name for m in listed(path)] == ["folder/b.jpg"] == [name for name, *_ in oracle(path)]


def test_a_checksum_may_be_of_signed_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    made = bytearray(header("häß.jpg"))
    made[148:156] = b"%06o\0 " % (sum(made[:148]) + 256 + sum(made[156:]) - 256 * sum(byte > 127 for byte in made))
    path.write_bytes(bytes(made) + bytes(1024))
    assert [m.name for m in listed(path)] == ["häß.jpg"] == [name for name, *_ in oracle(path)]


def test_sparse_files_are_no_pictures_and_hide_nothing(tmp_path: Path) -> None:
    def pieces(*pairs: tuple[int, int]) -> bytes:
        return b"".join(b"%011o\0%011o\0" % pair for pair in pairs)

    path = tmp_path / "a.tar"
    fields = {"kind": (156, b"S"), "size": (124, b"00000000006\0"), "real": (483, b"00000100000\0")}
    four = pieces((0, 1), (512, 1), (1024, 1), (1536, 1))
    old = header("s.jpg", **fields, map=(386, four), more=(482, b"\1"))
    more = block(pieces((2048, 1), (32767, 1)))
    said = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "n.jpg", "GNU.sparse.realsize": "9"}
    new = packed([(entry("GNUSparseFile.0/n.jpg", pax_headers=said), block(b"1\n0\n9\n") + b"123456789")], "pax")
    path.write_bytes(old + more + block(b"abcdef") + new)
    expected = [("s.jpg", 1024, 6, "other"), ("n.jpg", 3072, 521, "other")]
    assert [(m.name, m.offset, m.size, m.kind) for m in listed(path)] == expected
    assert [name for name, *_ in oracle(path)] == ["s.jpg", "n.jpg"]
    path.write_bytes(old + more[:100])
    with pytest.raises(BadFile, match=r"a\.tar: the tar is cut"):
        listed(path)


def test_names_that_are_no_text_become_text_and_stay_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(header("x", name=(0, b"\xff.jpg")) + header("x", name=(0, b"\xfe.jpg")) + bytes(1024))
    assert [m.name for m in listed(path)] == ["\\udcff.jpg", "\\udcfe.jpg"]


# Tars that are not


def test_a_cut_at_every_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    members = [(entry("a.jpg"), b"1" * 700), (entry("é" * 70), b"2"), (link("l", "a.jpg"), b""), (entry("e"), b"")]
    data = packed(members, "pax").rstrip(b"\0")
    end = -(-len(data) // 512) * 512  # where the end mark begins
    path.write_bytes(data + bytes(end + 1024 - len(data)))
    whole = listed(path)
    assert len(whole) == 4
    for length in range(end + 1023, -1, -1):
        os.truncate(path, length)
        if length >= end + 512:  # half of the end mark is enough: nothing is lost
            assert listed(path) == whole
            continue
        found = []
        with Reader(str(path)) as reader, pytest.raises(BadFile, match=r"^folder/a\.tar: "):
            found.extend(tar_members(reader, "folder/a.tar"))
        assert found == whole[: len(found)]


def test_every_flipped_byte_of_a_header_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    tar(path, [("a.jpg", b"1" * 600), ("b.jpg", b"2")])
    data = bytearray(path.read_bytes())
    whole = listed(path)
    for at in range(1536, 2048):  # the header of b.jpg
        data[at] ^= 0xFF
        path.write_bytes(data)
        if at == 1536 + 155:  # behind the end of the checksum
            assert listed(path) == whole
        else:
            with pytest.raises(BadFile, match="not a tar header at byte 1,536"):
                listed(path)
        data[at] ^= 0xFF


whole_tar = packed([(entry("a.jpg"), b"1" * 600)])


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "the file is empty"),
        (b"x", "cut in a header"),
        (b"PK\3\4" + bytes(600), "not an uncompressed tar"),
        (b"\x1f\x8b" + bytes(600), "not an uncompressed tar"),
        (whole_tar + whole_tar, "more data behind the tar's end"),
        (whole_tar + b"\0" * 512 + b"x", "more data behind the tar's end"),
        (whole_tar + bytes(3 << 20) + b"x", "more data behind the tar's end"),
        (bytes(512) + whole_tar, "more data behind the tar's end"),
        (whole_tar[:1536] + b"garbage" * 512, "not a tar header at byte 1,536"),
        (header(kind=(156, b"x"), size=(124, b"00004000001\0")) + bytes(1 << 21), "a header record of 1,048,577 bytes"),
        (
            header(kind=(156, b"L"), size=(124, b"00000000005\0")) + block(b"b.jpg") + bytes(1024),
            "no member behind the",
        ),
        (packed([(entry("é"), b"")])[:1024] + bytes(1024), "no member behind the header record"),
    ],
)
def test_what_is_no_whole_tar(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    with pytest.raises(BadFile, match=message):
        listed(path)


def test_zeros_behind_the_end_are_padding(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(whole_tar + bytes(5 << 20))
    assert [m.name for m in listed(path)] == ["a.jpg"]
    path.write_bytes(bytes(10240))
    assert listed(path) == []


@pytest.mark.parametrize("kind", ["0", "L", "x", "g", "S", "D", "7", "\0", "Z"])
@pytest.mark.parametrize(
    "size",
    [
        b"-0000001000\0", b"-1\0", b"garbage\0", b"00000009000\0", b"0x00000000\0", b"1_000\0", b"\xb2\xb3\0",
        b"\xff" * 12, b"\xff" * 11 + b"\0", b"\xc0" + bytes(11), b"\x80" + b"\xff" * 11,
        b"\x80\0\0\0\x7f" + b"\xff" * 7,
        b"\x80\0\0\0\0\0\0\x08" + bytes(4), b"777777777777", b"00000010000\0",
    ],
)  # fmt: skip
def test_an_impossible_size_is_a_bad_file(tmp_path: Path, kind: str, size: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(header(kind=(156, kind.encode()), size=(124, size)) + header("b.jpg") + bytes(1024))
    with pytest.raises(BadFile, match=r"a\.tar"):
        listed(path)


@pytest.mark.parametrize(
    "record",
    [
        b"0 path=a\n", b"00 path=a\n", b"5 path=a\n", b"99 path=a\n", b"10 path=ab", b"12 path=ab\n", b"9 path=ab\n",
        b"x path=a\n", b"-9 path=a\n", b" path=a\n", b"path=a\n", b"9 path a\n", b"10\npath=a\n", b"\xb2 path=a\n",
        b"9" * 5000 + b" path=a\n", b"9" * 9 + b" path=a\n", b"11 path=ab\n7 size",
        b"11 size=-1\n", b"10 size=x\n", b"12 size=1.5\n", b"12 size=1_0\n", b"33 size=" + b"9" * 24 + b"\n",
        b"28 size=9223372036854775807\n", b"13 size= 12\n", b"13 size=\xb2\xb3\xb9\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["x", "g"])
def test_a_broken_pax_record_is_a_bad_file(tmp_path: Path, record: bytes, kind: str) -> None:
    path = tmp_path / "a.tar"
    said = header("pax", kind=(156, kind.encode()), size=(124, b"%011o\0" % len(record))) + block(record)
    path.write_bytes(said + header("b.jpg") + bytes(1024))
    with pytest.raises(BadFile, match=r"a\.tar: .*(header record|cut inside)"):
        listed(path)


def test_an_empty_pax_value_takes_back_what_was_said(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    record = b"8 path=\n8 size=\n"
    said = header("pax", kind=(156, b"x"), size=(124, b"%011o\0" % len(record))) + block(record)
    path.write_bytes(said + header("b.jpg", size=(124, b"00000000003\0")) + block(b"123") + bytes(1024))
    assert [(m.name, m.size) for m in listed(path)] == [("b.jpg", 3)]


@settings(FUZZ, max_examples=400)
@given(st.data())
def test_no_tar_raises_anything_but_bad_file(tmp_path: Path, data: st.DataObject) -> None:
    format_ = data.draw(st.sampled_from(sorted(FORMATS)))
    members = [(entry("a/" * 40 + "é" * 20), b"1" * 600), (link("l", "t" * 90), b""), (entry("b"), b"2")]
    made = bytearray(packed(members, format_))
    blocks = [at for at in range(0, len(made), 512) if made[at + 257 : at + 262] == b"ustar"]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(blocks))
        where = data.draw(st.sampled_from([0, 124, 124, 148, 156, 156, 345, 600]))
        made[at + where : at + where + 4] = data.draw(st.binary(min_size=4, max_size=4))
        made[at : at + 512] = sealed(bytes(made[at : at + 512]))
    path = tmp_path / "a.tar"
    path.write_bytes(made)
    try:
        found = listed(path)
    except BadFile:
        return
    assert all(m.offset + m.size <= len(made) for m in found)


# Zips


def opened(path: str | Path) -> tuple[list[Member], Callable[[Member], bytes], Reader]:
    reader = Reader(str(path))
    members, read = zip_members(reader, "a.zip")
    return members, read, reader


zip_names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40)
methods = st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])


@settings(FUZZ, max_examples=80)
@given(
    members=st.lists(st.tuples(zip_names, methods, st.binary(max_size=3000)), max_size=6, unique_by=lambda m: m[0]),
    before=st.sampled_from([b"", b"#!/bin/sh\n"]),
    zip64=st.booleans(),
)
def test_a_whole_zip_has_the_members_that_zipfile_finds(
    tmp_path: Path, members: list[tuple[str, int, bytes]], before: bytes, zip64: bool
) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(before)
    with zipfile.ZipFile(path, "a") as archive:
        for name, method, data in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            with archive.open(info, "w", force_zip64=zip64) as file:
                file.write(data)
            info.extra += b"\xff\xff\4\0abcd"  # in the directory, not before the member
    found, read, reader = opened(path)
    with reader, zipfile.ZipFile(path) as archive:
        expected = [info for info in archive.infolist() if not info.is_dir()]
        assert [(m.name, m.size, m.kind, m.crc) for m in found] == [
            (info.filename, info.file_size, "file", info.CRC) for info in expected
        ]
        for member, info in zip(found, expected, strict=True):
            data = archive.read(info)
            assert read(member) == data
            if info.compress_type == zipfile.ZIP_STORED:
                assert path.read_bytes()[member.offset : member.offset + member.size] == data
            else:
                assert member.offset == -1


def test_folders_links_and_names_that_repeat(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    names = ["a#3", "a", "a", "a", "a#4"]
    zip_(path, [("folder/", b""), *((name, b"%d" % number) for number, name in enumerate(names))])
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("link.jpg")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "a")
    members, read, reader = opened(path)
    with reader:
        assert [m.kind for m in members] == ["file"] * 5 + ["link"]
        assert len({m.name for m in members}) == 6
        assert [m.name for m in members][:2] == ["a#3", "a"]
        assert [read(m) for m in members] == [b"0", b"1", b"2", b"3", b"4", b"a"]


def patched(path: Path, local: int, central: int, value: bytes) -> None:
    """Writes `value` over a field of the first member, in its local header and in the directory."""
    data = bytearray(path.read_bytes())
    directory = data.rfind(b"PK\1\2")
    for at in (local, directory + central):
        data[at : at + len(value)] = value
    path.write_bytes(data)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    "local, central, value, reason",
    [
        (6, 8, b"\1\0", "unreadable_member"),  # encrypted
        (14, 16, b"\0\0\0\0", "crc_mismatch"),
        (22, 24, (LARGEST + 1).to_bytes(4, "little"), "too_large"),
        (22, 24, (400 << 20).to_bytes(4, "little"), "unreadable_member|crc_mismatch"),
        (22, 24, b"\x05\0\0\0", "crc_mismatch"),
        (8, 10, b"\x63\0", "unreadable_member"),
        (8, 10, b"\x0c\0", "unreadable_member"),  # bzip2
    ],
)
def test_a_bad_member_is_a_bad_row(
    tmp_path: Path, method: int, local: int, central: int, value: bytes, reason: str
) -> None:
    path = tmp_path / "a.zip"
    zip_(path, [("a.jpg", picture(seed=1))], method)
    patched(path, local, central, value)
    members, read, reader = opened(path)
    tracemalloc.start()
    with reader, pytest.raises(BadRow) as raised:
        read(members[0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert raised.value.reason in reason.split("|")
    assert peak < 16 << 20


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_byte_of_a_member_is_noticed(tmp_path: Path, method: int) -> None:
    path = tmp_path / "a.zip"
    zip_(path, [("a.jpg", picture(seed=1)), ("b.jpg", picture(seed=2))], method)
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    members, read, reader = opened(path)
    with reader:
        with pytest.raises(BadRow) as raised:
            read(members[0])
        assert raised.value.reason in ("crc_mismatch", "unreadable_member")
        assert read(members[1]) == picture(seed=2)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_bomb_is_not_unpacked(tmp_path: Path, method: int) -> None:
    path = tmp_path / "a.zip"
    zip_(path, [("bomb.jpg", bytes(64 << 20))], method)
    patched(path, 22, 24, b"\x64\0\0\0")  # says that it is 100 bytes
    members, read, reader = opened(path)
    tracemalloc.start()
    with reader, pytest.raises(BadRow):
        read(members[0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_cut_at_every_byte_is_a_bad_file(tmp_path: Path, method: int) -> None:
    path = tmp_path / "a.zip"
    zip_(path, [("a.txt", b"1" * 200), ("b.txt", b"2")], method)
    data = path.read_bytes()
    for length in range(len(data) - 1, -1, -1):
        os.truncate(path, length)
        with Reader(str(path)) as reader, pytest.raises(BadFile, match=r"^folder/a\.zip: "):
            zip_members(reader, "folder/a.zip")
    if method == zipfile.ZIP_STORED:
        for start in range(1, 250):
            path.write_bytes(data[start:])
            with Reader(str(path)) as reader, pytest.raises(BadFile, match=r"a\.zip: "):
                zip_members(reader, "a.zip")


@pytest.mark.parametrize("offset", [b"\xff\xff\xff\x7f", b"\1\0\0\0"])
def test_a_directory_that_points_nowhere_is_a_bad_file(tmp_path: Path, offset: bytes) -> None:
    path = tmp_path / "a.zip"
    zip_(path, [("a.txt", b"1" * 200)])
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\1\2") + 42
    data[at : at + 4] = offset
    path.write_bytes(data)
    with Reader(str(path)) as reader, pytest.raises(BadFile, match="no member at byte"):
        zip_members(reader, "a.zip")


def test_an_offset_beyond_all_files_is_a_bad_file(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("a.txt")
        archive.writestr(info, "1")
        info.header_offset = 2**64 - 1
    with Reader(str(path)) as reader, pytest.raises(BadFile, match="no member at byte"):
        zip_members(reader, "a.zip")


@pytest.mark.parametrize("data", [b"", b"PK\5\6", bytes(100), b"PK\3\4" + bytes(100), whole_tar])
def test_what_is_no_zip(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    with Reader(str(path)) as reader, pytest.raises(BadFile, match=r"^a\.zip: (the file is empty|not a whole zip)"):
        zip_members(reader, "a.zip")


@settings(FUZZ, max_examples=400)
@given(
    flips=st.lists(st.tuples(st.floats(0, 0.9999), st.integers(1, 255)), min_size=1, max_size=4),
    method=methods,
)
def test_no_zip_raises_anything_but_bad_file_and_bad_row(
    tmp_path: Path, flips: list[tuple[float, int]], method: int
) -> None:
    path = tmp_path / "a.zip"
    zip_(path, [("é.txt", b"1" * 30), ("b.txt", b"2")], method)
    data = bytearray(path.read_bytes())
    for where, mask in flips:
        data[int(where * len(data))] ^= mask
    path.write_bytes(data)
    with Reader(str(path)) as reader:
        try:
            members, read = zip_members(reader, "a.zip")
        except BadFile:
            return
        for member in members:
            try:
                assert len(read(member)) == member.size
            except BadRow:
                continue


# Where they are read from, and what they are called


def test_a_remote_archive_has_the_members_of_a_local_one(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", [(f"{i}.jpg", picture(seed=i)) for i in range(5)])
    zip_(tmp_path / "a.zip", [(f"{i}.jpg", picture(seed=i)) for i in range(5)])
    memory = fsspec.filesystem("memory")
    for name in ("a.tar", "a.zip"):
        memory.pipe(f"/test_archive/{name}", (tmp_path / name).read_bytes())
    remote = "memory://test_archive"
    assert listed(f"{remote}/a.tar") == listed(tmp_path / "a.tar")
    members, read, reader = opened(tmp_path / "a.zip")
    far_members, far_read, far_reader = opened(f"{remote}/a.zip")
    with reader, far_reader:
        assert (reader.local, far_reader.local) == (True, False)
        assert far_members == [member._replace(offset=-1) for member in members]
        assert [far_read(m) for m in far_members] == [read(m) for m in members] == [picture(seed=i) for i in range(5)]
        assert reader.size == far_reader.size
        for offset, n in [(0, 10), (100, 0), (reader.size - 3, 10), (reader.size + 5, 10), (0, reader.size)]:
            assert reader.read(offset, n) == far_reader.read(offset, n)
            near, far = bytearray(n + 2), bytearray(n + 2)
            assert reader.into(near, offset, n) == far_reader.into(far, offset, n)
            assert near == far
    memory.rm("/test_archive", recursive=True)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("a.jpg", False), ("folder/a.jpg", False), ("a..b.jpg", False), ("...", False), (".hidden", False),
        ("a b é 猫 #?%.jpg", False), ("./a.jpg", False), ("ab:c.jpg", False), ("ab::c.jpg", False),
        ("", True), ("/etc/passwd", True), ("\\\\host\\share", True), ("\\a", True), ("..", True), ("../a", True),
        ("a/../b", True), ("a\\..\\b", True), ("a/..", True), ("C:\\a", True), ("C:a", True), ("c:/a", True),
        ("a\0b", True), ("a\nb", True), ("a\x1b[31m", True), ("a\x7f", True), ("a\tb", True),
    ],
)  # fmt: skip
def test_unsafe_names(name: str, expected: bool) -> None:
    assert unsafe(name) is expected
