"""Frames and hellos of the protocol, and the committed stubs."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from deploy.stubs import HEADER, StubEncoder
from google.protobuf import descriptor_pb2

from jaxsplit import errors
from jaxsplit.bitstream import pack_header
from jaxsplit.bitstream.header import FRAME_CHECKS
from jaxsplit.deploy import service_pb2 as pb
from jaxsplit.deploy.protocol import Code, code_of, error_of, read_hello, seal, unseal
from jaxsplit.errors import BitstreamError, ConfigError, NewerVersionError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("checked", [False, True])
def test_frames_come_back(checked):
    hello = read_hello(pack_header(HEADER, FRAME_CHECKS if checked else 0))
    assert (hello.checked, hello.header, hello.top) == (checked, HEADER, 1)
    frame = StubEncoder().encode(5, rate="mid")
    for number in (0, 7, 2**40):
        assert unseal(seal(frame, number, checked), number, hello).rate_index == 1


def test_every_flipped_bit_is_found():
    hello = read_hello(pack_header(HEADER, FRAME_CHECKS))
    data = seal(StubEncoder().encode(5, rate="low"), 3, True)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BitstreamError):
            unseal(bytes(damaged), 3, hello)
    for size in range(len(data)):
        with pytest.raises(BitstreamError):
            unseal(data[:size], 3, hello)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", BitstreamError),
        (b"JSPL\x09\x00", NewerVersionError),
        (pack_header(HEADER)[:-1], BitstreamError),
        (pack_header(HEADER) + b"\0", BitstreamError),
        (b"GET / HTTP/1.1", BitstreamError),
    ],
)
def test_what_is_no_header_is_no_hello(data, error):
    with pytest.raises(error):
        read_hello(data)


def test_a_hello_of_too_many_classes_is_refused():
    with pytest.raises(ConfigError, match="above 1000"):
        read_hello(pack_header(HEADER), top=1001)


@pytest.mark.parametrize("name", ["OtherFamilyError", "OtherTablesError", "NewerVersionError"])
def test_errors_of_a_hello_arrive_as_they_were_raised(name):
    error = getattr(errors, name)("said")
    found = error_of(code_of(error), str(error), type(error).__name__)
    assert (type(found), str(found)) == (type(error), "said")


def test_a_name_that_is_no_error_of_a_hello_is_a_service_error():
    found = error_of(Code.INTERNAL, "said", "escaped")
    assert (type(found).__name__, found.code) == ("ServiceError", Code.INTERNAL)


@pytest.mark.skipif(importlib.util.find_spec("grpc_tools") is None, reason="needs grpcio-tools")
def test_the_stubs_are_those_of_the_proto(tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "grpc_tools.protoc", "-I."]
    command += [f"--descriptor_set_out={tmp_path / 'set'}", "jaxsplit/deploy/service.proto"]
    subprocess.run(command, check=True, cwd=ROOT)
    found = descriptor_pb2.FileDescriptorSet.FromString((tmp_path / "set").read_bytes()).file[0]
    committed = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(committed)
    assert [one.name for one in found.message_type] == [one.name for one in committed.message_type]
    for one, other in zip(found.message_type, committed.message_type, strict=True):
        fields = [[(x.name, x.number, x.type) for x in y.field] for y in (one, other)]
        assert fields[0] == fields[1]
    assert found.service == committed.service
