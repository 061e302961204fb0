"""Signed notes, checkpoints and cosignatures: one form, and no signature taken on trust."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from keys.checkpoint import Checkpoint, read_checkpoint
from keys.encoding import b64url_encode
from keys.notes import (
    COSIGNATURE,
    ED25519,
    NOTE_MAX,
    SIGNATURES_MAX,
    SIZE_MAX,
    Cosigner,
    Note,
    NoteError,
    NoteUnsigned,
    Signature,
    Signer,
    VerifierKey,
    b64,
    decimal,
    parse_signatures,
    sign,
    signature_lines,
    unb64,
)

# The example of golang.org/x/mod/sumdb/note (example_test.go): key, seed, text and signature made there, not here.
PETER_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
PETER_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ENOCH_VKEY = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
ENOCH_LINE = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)

ORIGIN = "log.example.com/calls"
LOG = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(b"\x01" * 32))
WITNESS = Cosigner("witness.example.net/w1", Ed25519PrivateKey.from_private_bytes(b"\x02" * 32))
OTHER = Signer("other.example.com/log", Ed25519PrivateKey.from_private_bytes(b"\x03" * 32))
ROOT = hashlib.sha256(b"root").digest()
CHECKPOINT = Checkpoint(ORIGIN, 7, ROOT)


def test_go_signs_the_same_note() -> None:
    peter = Signer("PeterNeumann", Ed25519PrivateKey.from_private_bytes(PETER_SEED))
    assert str(peter.key) == PETER_VKEY
    assert str(sign(PETER_TEXT, peter)) == f"{PETER_TEXT}\n{PETER_LINE}"


def test_go_s_note_verifies_with_either_key_or_both() -> None:
    peter, enoch = VerifierKey.parse(PETER_VKEY), VerifierKey.parse(ENOCH_VKEY)
    note = Note.parse(f"{PETER_TEXT}\n{PETER_LINE}{ENOCH_LINE}".encode())
    assert note.text == PETER_TEXT
    assert [v.key for v in note.verify([peter])] == [peter]
    assert [v.key for v in note.verify([enoch, peter])] == [peter, enoch]
    assert [v.time for v in note.verify([enoch, peter])] == [None, None]
    with pytest.raises(NoteUnsigned, match="no key that is trusted"):
        note.verify([LOG.key])
    with pytest.raises(NoteUnsigned):
        note.verify([])


def test_a_note_may_hold_empty_lines() -> None:
    text = "Ognuno sta solo\n\ned è subito sera.\n\n— not a signature\n"
    note = Note.parse(str(sign(text, OTHER)).encode())
    assert note.text == text
    note.verify([OTHER.key])


def test_one_wrong_signature_of_a_trusted_key_spoils_the_note() -> None:
    good, bad = LOG.sign(CHECKPOINT.text), LOG.sign("another text\n")
    for lines in ((bad,), (good, bad), (bad, good)):
        with pytest.raises(NoteUnsigned, match="does not verify"):
            Note(CHECKPOINT.text, lines).verify([LOG.key])
    # A stranger's line is nobody's business, whatever it holds.
    stranger = Signature(OTHER.key.name, OTHER.key.id, bytes(64))
    Note(CHECKPOINT.text, (stranger, good)).verify([LOG.key])


def test_the_same_name_or_the_same_id_is_not_the_same_key() -> None:
    line = LOG.sign(CHECKPOINT.text)
    renamed = Signature("log.example.com/other", line.id, line.data)
    reidentified = Signature(line.name, bytes(4), line.data)
    for lines in ((renamed,), (reidentified,)):
        with pytest.raises(NoteUnsigned, match="no key"):
            Note(CHECKPOINT.text, lines).verify([LOG.key])


def test_a_key_that_signs_twice_counts_once() -> None:
    note = Note(CHECKPOINT.text, (WITNESS.cosign(CHECKPOINT.text, 5), WITNESS.cosign(CHECKPOINT.text, 6)))
    (found,) = note.verify([WITNESS.key])
    assert found.time == 5


def test_a_cosignature_signs_the_time_and_the_whole_text() -> None:
    """Computed here from tlog-cosignature alone: header line, time line, note body; u64 time before the signature."""
    line = WITNESS.cosign(CHECKPOINT.text, 1_679_315_147)
    stamp, raw = line.data[:8], line.data[8:]
    assert int.from_bytes(stamp, "big") == 1_679_315_147
    message = f"cosignature/v1\ntime 1679315147\n{ORIGIN}\n7\n{base64.b64encode(ROOT).decode()}\n"
    Ed25519PublicKey.from_public_bytes(WITNESS.key.public).verify(raw, message.encode())
    assert line.id == hashlib.sha256(b"witness.example.net/w1\n\x04" + WITNESS.key.public).digest()[:4]
    (found,) = sign(CHECKPOINT.text, LOG).with_signatures([line]).verify([WITNESS.key])
    assert found.time == 1_679_315_147


# A checkpoint of the public CT log arche2025h1 (staging) as its witnesses cosigned it in 2026, and their public keys:
# other implementations of tlog-cosignature than ours.
CT_NOTE = """arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=

— arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=
— transparency.dev/DEV:witness-little-garden 2AQqhwAAAABqEiEgzgFIqqhbUoDwjMWE6UP8nd8/KYTzwZ2rhIgcqoXHAwVkjZr4AscylP3v7sEodkRAErumC2q44vdgJY096st5BQ==
— witness1.smartit.nu/witness1 pIyCDwAAAABqEiEghIp82KWebrw7/oHQwlTAm3g2RKS4+eebl8eO0WH+/iEcxZ75W3u5hNI7TOQtmJbqmNWVuE0tgh0XwzdZsDsUAQ==
— remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtqB0DrAWfBw==
"""  # noqa: E501
CT_LOG = "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"
CT_WITNESSES = (
    "transparency.dev/DEV:witness-little-garden+d8042a87+BCtusOxINQNUTN5Oj8HObRkh2yHf/MwYaGX4CPdiVEPM",
    "witness1.smartit.nu/witness1+a48c820f+BPSFWg9G6KPiO7QPryYO5Xq4oYJJ+kAvLKLSimDhoxMO",
    "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
)


def test_a_checkpoint_of_a_public_log_with_cosignatures_of_its_witnesses() -> None:
    log, witnesses = VerifierKey.parse(CT_LOG), [VerifierKey.parse(text) for text in CT_WITNESSES]
    note = Note.parse(CT_NOTE.encode())
    assert read_checkpoint(note, log).size == 1432088532
    found = note.verify(witnesses)
    assert [(v.key, v.time) for v in found] == [(key, 0x6A122120) for key in witnesses]
    other = Note(note.text.replace("1432088532", "1432088533"), note.signatures)
    for key in (log, *witnesses):
        with pytest.raises(NoteUnsigned, match="does not verify"):
            other.verify([key])


def test_a_cosignature_at_another_time_or_over_another_text_is_none() -> None:
    line = WITNESS.cosign(CHECKPOINT.text, 100)
    later = Signature(line.name, line.id, (101).to_bytes(8, "big") + line.data[8:])
    beyond = Signature(line.name, line.id, (1 << 63).to_bytes(8, "big") + line.data[8:])
    short = Signature(line.name, line.id, line.data[:-1])
    for bad in (later, beyond, short):
        with pytest.raises(NoteUnsigned):
            Note(CHECKPOINT.text, (bad,)).verify([WITNESS.key])
    extended = Checkpoint(ORIGIN, 7, ROOT, ("more",))
    with pytest.raises(NoteUnsigned):
        Note(extended.text, (line,)).verify([WITNESS.key])


def test_a_log_s_signature_is_no_cosignature_of_the_same_key() -> None:
    private = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
    cosigner = Cosigner(ORIGIN, private)
    assert cosigner.key.public == LOG.key.public
    assert cosigner.key.id != LOG.key.id
    with pytest.raises(NoteUnsigned):
        sign(CHECKPOINT.text, LOG).verify([cosigner.key])
    with pytest.raises(ValueError, match="seconds"):
        cosigner.cosign(CHECKPOINT.text, 1 << 63)
    with pytest.raises(ValueError, match="seconds"):
        cosigner.cosign(CHECKPOINT.text, -1)


@pytest.mark.parametrize("text", [PETER_VKEY, ENOCH_VKEY, str(LOG.key), str(WITNESS.key)])
def test_a_key_s_text_comes_back(text: str) -> None:
    assert str(VerifierKey.parse(text)) == text


def test_a_key_whose_base64_holds_a_plus() -> None:
    public = b"\xfb" * 32
    key = VerifierKey("a", ED25519, public)
    assert "+" in str(key).split("+", 2)[2]
    assert VerifierKey.parse(str(key)) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "PeterNeumann+c74f20a3",
        PETER_VKEY.replace("c74f20a3", "C74F20A3"),
        PETER_VKEY.replace("c74f20a3", "c74f20a4"),
        PETER_VKEY.replace("Peter", "Paul"),
        PETER_VKEY.replace("+ARp", "+BRp"),
        PETER_VKEY[:-4],
        PETER_VKEY + "\n",
        PETER_VKEY.replace("+ARp", "+ ARp"),
        PETER_VKEY.replace("PeterNeumann", ""),
        PETER_VKEY.replace("PeterNeumann", "Peter Neumann"),
        "a+00000000+",
    ],
)
def test_a_key_that_is_none(text: str) -> None:
    with pytest.raises(NoteError):
        VerifierKey.parse(text)


def test_ecdsa_and_what_is_to_come_are_not_guessed_at() -> None:
    with pytest.raises(NoteError, match="0x02"):
        VerifierKey("a", 0x02, bytes(32))
    with pytest.raises(NoteError, match="32 bytes"):
        VerifierKey("a", COSIGNATURE, bytes(33))


def test_a_published_jwk_is_a_key() -> None:
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": b64url_encode(LOG.key.public)}
    assert VerifierKey.from_jwk(ORIGIN, jwk) == LOG.key
    with pytest.raises(NoteError):
        VerifierKey.from_jwk(ORIGIN, {"kty": "EC", "crv": "P-256", "x": jwk["x"]})
    with pytest.raises(NoteError):
        VerifierKey.from_jwk(ORIGIN, {**jwk, "x": "A"})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text\n",
        b"text\n\n",
        f"text\n{PETER_LINE}".encode(),
        f"text\n\n{PETER_LINE}"[:-1].encode(),
        f"text\n\n{PETER_LINE}\n".encode(),
        f"te\x01xt\n\n{PETER_LINE}".encode(),
        f"te\rxt\n\n{PETER_LINE}".encode(),
        f"te\txt\n\n{PETER_LINE}".encode(),
        b"te\xffxt\n\n" + PETER_LINE.encode(),
        f"text\n\n{PETER_LINE}".replace("—", "-").encode(),
        f"text\n\n{PETER_LINE}".replace("— Peter", "—  Peter").encode(),
        f"text\n\n{PETER_LINE}".replace("Peter", "Pe+ter").encode(),
        f"text\n\n{PETER_LINE}".replace("Peter", "Pe\u00a0ter").encode(),
        f"text\n\n{PETER_LINE}".replace("AM=\n", "AM\n").encode(),
        f"text\n\n{PETER_LINE}".replace("AM=\n", "AN=\n").encode(),
        f"text\n\n{PETER_LINE}".replace("AM=\n", "AM= \n").encode(),
        "text\n\n— a AAAAAA==\n".encode(),
        "text\n\n— a\n".encode(),
        f"text\n\n{PETER_LINE * (SIGNATURES_MAX + 1)}".encode(),
        b"x" * NOTE_MAX + f"\n\n{PETER_LINE}".encode(),
    ],
)
def test_a_note_that_is_none(data: bytes) -> None:
    with pytest.raises(NoteError):
        Note.parse(data)


def test_a_hundred_signatures_are_read() -> None:
    assert len(Note.parse(f"text\n\n{PETER_LINE * SIGNATURES_MAX}").signatures) == SIGNATURES_MAX


def test_what_cannot_be_signed() -> None:
    for text in ("no newline", "", "a\x00\n", "a\r\n", "\ud800\n"):
        with pytest.raises(NoteError):
            LOG.sign(text)
        with pytest.raises(NoteError):
            WITNESS.cosign(text, 1)
    for name in ("", "a b", "a+b", "a\u2003b", "a\nb", "a\x7f\x01"):
        with pytest.raises(NoteError):
            Signer(name, Ed25519PrivateKey.generate())


def test_further_signatures_do_not_repeat_what_stands() -> None:
    line = WITNESS.cosign(CHECKPOINT.text, 9)
    note = sign(CHECKPOINT.text, LOG).with_signatures([line])
    assert note.with_signatures([line]) == note
    assert parse_signatures(signature_lines(note.signatures)) == note.signatures
    for lines in ("", "\n", str(line), f"{line}\n\n"):
        with pytest.raises(NoteError):
            parse_signatures(lines)


def test_the_specification_s_checkpoint() -> None:
    """The example of tlog-checkpoint, "Note text"."""
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    checkpoint = Checkpoint.parse(text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert checkpoint.root.hex().startswith("0ac5186a91863e8e1d90c808014aa89b")
    assert checkpoint.text == text
    assert Checkpoint.parse(text + "ext one\nüber\n").extensions == ("ext one", "über")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "o\n7\n",
        f"o\n7\n{b64(ROOT)}",
        f"\n7\n{b64(ROOT)}\n",
        f"o\n07\n{b64(ROOT)}\n",
        f"o\n+7\n{b64(ROOT)}\n",
        f"o\n-7\n{b64(ROOT)}\n",
        f"o\n7 \n{b64(ROOT)}\n",
        f"o\n٧\n{b64(ROOT)}\n",
        f"o\n{1 << 63}\n{b64(ROOT)}\n",
        f"o\n{'9' * 5000}\n{b64(ROOT)}\n",
        f"o\n7\n{b64(ROOT[:-1])}\n",
        f"o\n7\n{ROOT.hex()}\n",
        f"o\n7\n{b64(ROOT).rstrip('=')}\n",
        f"o\n7\n{b64(ROOT)}\n\n",
        f"o\n7\n{b64(ROOT)}\n\nmore\n",
        f"o\t\n7\n{b64(ROOT)}\n",
    ],
)
def test_a_checkpoint_that_is_none(text: str) -> None:
    with pytest.raises(NoteError):
        Checkpoint.parse(text)


def test_a_log_s_checkpoint_is_read_only_if_the_log_signed_it() -> None:
    note = sign(CHECKPOINT.text, OTHER, LOG)
    assert read_checkpoint(str(note).encode(), LOG.key) == CHECKPOINT
    with pytest.raises(NoteUnsigned):
        read_checkpoint(sign(CHECKPOINT.text, OTHER), LOG.key)
    # OTHER signed it, but the first line says that it is LOG's.
    with pytest.raises(NoteError, match="another log's"):
        read_checkpoint(note, OTHER.key)
    assert read_checkpoint(note, OTHER.key, ORIGIN) == CHECKPOINT


def test_base64_and_decimals_have_one_spelling() -> None:
    assert unb64("AAE=") == b"\x00\x01"
    for text in ("AAE", "AAF=", "AAE=\n", "A A=", "AA-_", "é", "=AAE"):
        with pytest.raises(NoteError):
            unb64(text)
    assert [decimal("0"), decimal("10"), decimal(str(SIZE_MAX))] == [0, 10, SIZE_MAX]
    for text in ("", "00", "01", " 1", "1\n", "٣", "1_0", str(SIZE_MAX + 1)):
        with pytest.raises(NoteError):
            decimal(text)


@given(st.integers(0, SIZE_MAX), st.binary(min_size=32, max_size=32), st.integers(0, SIZE_MAX))
def test_what_is_written_is_read(size: int, root: bytes, time: int) -> None:
    checkpoint = Checkpoint(ORIGIN, size, root)
    note = sign(checkpoint.text, LOG).with_signatures([WITNESS.cosign(checkpoint.text, time)])
    again = Note.parse(str(note).encode())
    assert again == note
    assert [v.time for v in again.verify([LOG.key, WITNESS.key])] == [None, time]
    assert read_checkpoint(again, LOG.key) == checkpoint


@given(st.data())
def test_no_change_of_a_byte_passes(data: st.DataObject) -> None:
    """Whatever byte is changed: refused, or the very text that was signed (a stranger's line, say, cannot matter)."""
    whole = str(sign(CHECKPOINT.text, LOG)).encode()
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    with pytest.raises(NoteError):
        read_checkpoint(changed, LOG.key)


@given(st.binary(max_size=400) | st.text(max_size=400).map(lambda t: t.encode("utf-8", "surrogatepass")))
def test_noise_is_refused_with_an_error_of_ours(data: bytes) -> None:
    for whole in (data, data + b"\n\n" + PETER_LINE.encode()):
        try:
            note = Note.parse(whole)
            Checkpoint.parse(note.text)
        except NoteError:
            continue
