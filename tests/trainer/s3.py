"""A real S3 server on loopback (moto's), which checks credentials and signatures."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
import requests
from moto.server import ThreadedMotoServer

NAME = "photos"
REGION = "us-east-1"


@dataclass(frozen=True)
class S3:
    """A server with one bucket, and the credentials for it."""

    url: str
    key_id: str
    secret: str
    client: Any  # boto3's

    def content(self) -> dict[str, bytes]:
        """All objects."""
        found = self.client.list_objects_v2(Bucket=NAME).get("Contents", [])
        return {each["Key"]: self.get(each["Key"]) for each in found if not each["Key"].endswith("/")}

    def get(self, key: str) -> bytes:
        data: bytes = self.client.get_object(Bucket=NAME, Key=key)["Body"].read()
        return data

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=NAME, Key=key, Body=data)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=NAME, Key=key)

    def log_in(self, patch: pytest.MonkeyPatch, *, secret: str | None = None) -> None:
        """Set the credentials as an admin would."""
        patch.setenv("AWS_ACCESS_KEY_ID", self.key_id)
        patch.setenv("AWS_SECRET_ACCESS_KEY", secret or self.secret)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@contextmanager
def serve_s3() -> Iterator[S3]:
    """A server that ends with the context."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        anybody: dict[str, Any] = {"endpoint_url": url, "region_name": REGION}
        anybody |= {"aws_access_key_id": "first", "aws_secret_access_key": "first"}
        iam = boto3.client("iam", **anybody)
        iam.create_user(UserName="trainer")
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
        iam.put_user_policy(UserName="trainer", PolicyName="s3", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName="trainer")["AccessKey"]
        own = {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
        client = boto3.client("s3", **(anybody | own))
        client.create_bucket(Bucket=NAME)
        requests.post(f"{url}/moto-api/reset-auth", data=b"0", timeout=10).raise_for_status()  # from now on, it checks
        yield S3(url, key["AccessKeyId"], key["SecretAccessKey"], client)
    finally:
        server.stop()
