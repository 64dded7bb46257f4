"""What a program in Python does with a node, through stubs that were generated from the protos.

Called with the address of a node and the folder of the stubs. Ends with status 0 if everything came as documented.
"""

import sys

import grpc
from google.rpc import status_pb2

ADDRESS, STUBS = sys.argv[1:]
sys.path.insert(0, STUBS)

import admin_pb2
import admin_pb2_grpc
import kv_pb2
import kv_pb2_grpc

ODD = [b"user:alice", "schl\u00fcssel \U0001f511".encode(), b'a "quoted" key\nof two lines', b"\x00\xff\x00", b"k" * 1024]


def key(partition, sort=b""):
    return kv_pb2.RowKey(partition=partition, sort=sort)


def refusal(call, request):
    """The status of a call that must fail, and the detail that goes with it."""
    try:
        answer = call(request, timeout=60)
    except grpc.RpcError as error:
        metadata = dict(error.trailing_metadata())
        rich = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
        detail = kv_pb2.ErrorDetail()
        assert len(rich.details) == 1 and rich.details[0].Unpack(detail), rich
        assert rich.code == error.code().value[0] == detail.status, (rich, detail)
        assert rich.message == error.details() != "", (rich, error)
        return error.code(), detail
    raise AssertionError(f"it was to fail: {request}: {answer}")


def rows(kv):
    for number, odd in enumerate(ODD):
        value = b"value %d \x00" % number + odd * 1000
        written = kv.Put(kv_pb2.PutRequest(key=key(odd), value=value, level=kv_pb2.LEVEL_QUORUM), timeout=60)
        assert len(written.acknowledged_by) >= 2 and written.version.hlc > 0, written
        read = kv.Get(kv_pb2.GetRequest(key=key(odd), level=kv_pb2.LEVEL_ALL), timeout=60)
        assert read.found and read.value == value and read.version == written.version, odd
    kv.Delete(kv_pb2.DeleteRequest(key=key(ODD[0]), level=kv_pb2.LEVEL_QUORUM), timeout=60)
    gone = kv.Get(kv_pb2.GetRequest(key=key(ODD[0]), level=kv_pb2.LEVEL_QUORUM), timeout=60)
    assert not gone.found and gone.value == b"", gone


def many(kv):
    batch = [kv_pb2.PutRow(key=key(b"box", b"%03d" % number), value=b"%d" % number) for number in range(100)]
    kv.BatchPut(kv_pb2.BatchPutRequest(rows=batch, level=kv_pb2.LEVEL_QUORUM), timeout=60)
    page = kv.Range(kv_pb2.RangeRequest(partition=b"box", level=kv_pb2.LEVEL_QUORUM, backward=True, limit=3), timeout=60)
    assert [row.key.sort for row in page.rows] == [b"099", b"098", b"097"], page
    scan = kv.Scan(kv_pb2.ScanRequest(prefix=b"bo", level=kv_pb2.LEVEL_QUORUM, page_rows=30), timeout=60)
    listed = [row.key.sort for page in scan for row in page.rows]
    assert listed == [b"%03d" % number for number in range(100)], listed


def session(kv):
    def requests():
        puts = [kv_pb2.PutRequest(key=key(b"session %d" % number), value=b"%d" % number) for number in range(50)]
        yield kv_pb2.SessionRequests(requests=[kv_pb2.SessionRequest(id=id, put=put) for id, put in enumerate(puts)])
        yield kv_pb2.SessionRequests(requests=[kv_pb2.SessionRequest(id=50, get=kv_pb2.GetRequest(key=key(b"")))])

    replies = {reply.id: reply for message in kv.Session(requests(), timeout=60) for reply in message.replies}
    assert sorted(replies) == list(range(51)), sorted(replies)
    assert all(replies[id].WhichOneof("outcome") == "written" for id in range(50)), replies
    assert replies[50].error.code == "empty_key", replies[50]


def errors(kv, admin):
    code, detail = refusal(kv.Put, kv_pb2.PutRequest(key=key(b"k"), table="nowhere"))
    assert code == grpc.StatusCode.NOT_FOUND and detail.code == "unknown_table", detail
    assert (detail.keyspace, detail.table) == ("default", "nowhere") and not detail.may_take_effect, detail
    code, detail = refusal(kv.Get, kv_pb2.GetRequest(key=key(b"")))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and detail.code == "empty_key", detail
    code, detail = refusal(kv.Put, kv_pb2.PutRequest(key=key(b"k"), value=b"v", level=kv_pb2.LEVEL_THREE))
    # One of the three nodes is dead.
    assert code == grpc.StatusCode.UNAVAILABLE and detail.code == "unavailable", detail
    assert (detail.required, detail.alive) == (3, 2), detail
    nodes = {node.name: node.alive for node in admin.Nodes(admin_pb2.NodesRequest(), timeout=60).nodes}
    assert nodes == {"node-1": True, "node-2": True, "node-3": False}, nodes


def main():
    with grpc.insecure_channel(ADDRESS) as channel:
        kv, admin = kv_pb2_grpc.KvStub(channel), admin_pb2_grpc.AdminStub(channel)
        what = sys.stdin.readline().strip()
        while what:
            {"rows": lambda: (rows(kv), many(kv), session(kv)), "errors": lambda: errors(kv, admin)}[what]()
            print(what, flush=True)
            what = sys.stdin.readline().strip()


main()
