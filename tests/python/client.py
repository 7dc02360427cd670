"""The README's tour by a client that shares no code with the server.

It knows the endpoint and the names of services, nothing else: descriptors come by
server reflection, and messages are built from them at run time. Each step prints one
JSON object on a line. Exit code 0 only if the change was seen.

usage: client.py --endpoint HOST:PORT [--version 15] [--instance orders] [--ca FILE]
"""

import argparse
import json
import os
import queue
import subprocess
import sys
import threading

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

PROJECT = "projects/default"
SECONDS = 60


class Client:
    """Calls methods by name with requests in protobuf's JSON form."""

    def __init__(self, channel):
        self.channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)

    def services(self):
        return sorted(self.database.get_services())

    def call(self, method, request):
        """Calls a unary method and answers the response as a dictionary."""
        call, message = self._prepare(method, request)
        return self._dictionary(call(message, timeout=SECONDS))

    def stream(self, method, request):
        """Calls a server-streaming method and answers the running call."""
        call, message = self._prepare(method, request)
        return call(message, timeout=SECONDS)

    def wait(self, operation):
        """Waits for an operation; its error ends the program."""
        request = {"name": operation["name"], "timeout": f"{SECONDS // 2}s"}
        done = self.call("google.longrunning.Operations/WaitOperation", request)
        if not done.get("done") or "error" in done:
            raise RuntimeError(f"operation did not succeed: {json.dumps(done)}")
        return done

    def _prepare(self, method, request):
        service, name = method.split("/")
        found = self.pool.FindServiceByName(service).FindMethodByName(name)
        request_class = message_factory.GetMessageClass(found.input_type)
        response_class = message_factory.GetMessageClass(found.output_type)
        kind = self.channel.unary_stream if found.server_streaming else self.channel.unary_unary
        call = kind(
            f"/{method}",
            request_serializer=request_class.SerializeToString,
            response_deserializer=response_class.FromString,
        )
        return call, json_format.ParseDict(request, request_class(), descriptor_pool=self.pool)

    def _dictionary(self, message):
        return json_format.MessageToDict(message, descriptor_pool=self.pool)


def show(step, **fields):
    print(json.dumps({"step": step, **fields}, sort_keys=True), flush=True)


def psql(connection, sql):
    """Runs SQL as the owner. psql reads the password from its environment, since `ps`
    shows command lines to everybody."""
    login = {
        "PGHOST": connection["host"],
        "PGPORT": str(connection["port"]),
        "PGDATABASE": connection["database"],
        "PGUSER": connection["user"],
        "PGPASSWORD": connection["password"],
        "PGSSLMODE": connection["sslmode"],
    }
    subprocess.run(
        ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql],
        env={**os.environ, **login},
        check=True,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
    )


def follow(client, instance, database):
    """Subscribes in a thread and answers the call and a queue of its batches."""
    call = client.stream(
        "howdah.v1.ChangeStreamService/Subscribe",
        {"instance": instance, "database": database, "tables": ["public.items"]},
    )
    batches = queue.Queue()

    def read():
        try:
            for batch in call:
                batches.put(batch)
        except grpc.RpcError as error:
            batches.put(error)

    threading.Thread(target=read, daemon=True).start()
    return call, batches


def next_batch(batches):
    batch = batches.get(timeout=SECONDS)
    if isinstance(batch, Exception):
        raise batch
    return batch


def rows(batch):
    """The rows after each change of the batch, as lists of texts."""
    for change in batch.changes:
        if change.WhichOneof("event") == "row":
            yield [value.text for value in change.row.after.values]


def tour(client, arguments):
    show("services", services=client.services())
    instance = f"{PROJECT}/instances/{arguments.instance}"
    operation = client.call(
        "howdah.v1.InstanceService/CreateInstance",
        {
            "parent": PROJECT,
            "instance_id": arguments.instance,
            "instance": {"version": arguments.version},
        },
    )
    show("create_instance", operation=operation["name"])
    response = client.wait(operation)["response"]
    show("instance_ready", name=response["name"], state=response["state"])
    operation = client.call(
        "howdah.v1.DatabaseService/CreateDatabase",
        {"parent": instance, "database_id": "shop", "database": {}},
    )
    show("create_database", operation=operation["name"])
    response = client.wait(operation)["response"]
    show("database_ready", name=response["name"], owner=response["owner"])
    connection = client.call(
        "howdah.v1.DatabaseService/GetConnection", {"name": f"{instance}/databases/shop"}
    )
    show("connection", host=connection["host"], port=connection["port"], user=connection["user"])
    see_a_change(client, instance, connection)


def see_a_change(client, instance, connection):
    psql(connection, "create table items (id int primary key, name text)")
    call, batches = follow(client, instance, connection["database"])
    next_batch(batches)
    show("subscribed")
    psql(connection, "insert into items values (1, 'howdah')")
    while True:
        for row in rows(next_batch(batches)):
            show("change", row=row)
            if row == ["1", "howdah"]:
                call.cancel()
                return


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--version", default="15")
    parser.add_argument("--instance", default="orders")
    parser.add_argument("--ca", help="PEM file of the authority that the server's certificate is of")
    arguments = parser.parse_args()
    if arguments.ca:
        with open(arguments.ca, "rb") as file:
            credentials = grpc.ssl_channel_credentials(file.read())
        channel = grpc.secure_channel(arguments.endpoint, credentials)
    else:
        channel = grpc.insecure_channel(arguments.endpoint)
    with channel:
        try:
            tour(Client(channel), arguments)
        except grpc.RpcError as error:
            show("error", code=error.code().name, message=error.details())
            sys.exit(1)
        except queue.Empty:
            show("error", code="NO_CHANGE", message=f"nothing came within {SECONDS} s")
            sys.exit(1)


if __name__ == "__main__":
    main()
