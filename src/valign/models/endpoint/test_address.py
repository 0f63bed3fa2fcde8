"""Addresses: written and read back, wrong ones named, no credential in them or out of them."""

from __future__ import annotations

import pytest

from valign.errors import UsageError
from valign.models.endpoint.address import Address, is_endpoint, parse

URL = "http://localhost:8000/v1"


@pytest.mark.parametrize(
    "text, expected",
    [
        (f"vllm:qwen3@{URL}", Address("vllm", "qwen3", URL)),
        (f"vllm:org/model:4b@{URL}/", Address("vllm", "org/model:4b", URL)),
        (f"openai:me@home@{URL}", Address("openai", "me@home", URL)),
        (
            f"vllm:m@{URL}#parallel=3,timeout=2.5,attempts=1,logprobs=no,key_env=MY_KEY",
            Address("vllm", "m", URL, "MY_KEY", 3, 2.5, 1, False),
        ),
    ],
)
def test_a_written_form_is_read_and_written_back(text, expected):
    found = parse(text)
    assert found == expected and parse(found.text) == found and is_endpoint(text)
    assert "#" not in found.id and parse(found.id).model == expected.model


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "runs/demo", "owner/name", "openai/gpt-oss", "C:/models"])
def test_other_models_are_no_endpoints(name):
    assert not is_endpoint(name)


@pytest.mark.parametrize(
    "text, said",
    [
        ("vllm:m", "not an endpoint"),
        ("openai:@http://h/v1", "not an endpoint"),
        ("openai:m@ftp://h/v1", "not an endpoint"),
        ("openai:m@http:///v1", "names no server"),
        ("openai:m@http://h /v1", "not an endpoint"),
        ("openai:m\n@http://h/v1", "not an endpoint"),
        ("openai:m@http://h:port/v1", "cannot be read"),
        (f"vllm:m@{URL}#paralel=3", "did you mean: parallel"),
        (f"vllm:m@{URL}#parallel=many", "not a whole number"),
        (f"vllm:m@{URL}#timeout=0", "positive"),
        (f"vllm:m@{URL}#logprobs=maybe", "yes or no"),
    ],
)
def test_a_wrong_form_says_what_is_wrong(text, said):
    with pytest.raises(Exception, match=said):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "openai:m@https://me:hunter2@host/v1",
        "openai:m@https://hunter2@host/v1",
        "openai:m@https://host/v1?api_key=hunter2",
        "openai:m@https://host/v1?key=hunter2",
        "openai:m@https://host/v1#key_env=hunter2",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(text):
    with pytest.raises(UsageError) as error:
        parse(text)
    assert "hunter2" not in str(error.value)


def test_the_key_of_one_service_is_not_sent_to_another(monkeypatch):
    """OPENAI_API_KEY belongs to OpenAI's own address alone; a variable that was named must be set."""
    monkeypatch.setenv("OPENAI_API_KEY", "for-openai")
    monkeypatch.delenv("VALIGN_API_KEY", raising=False)
    assert parse("openai:m@https://api.openai.com/v1").key() == "for-openai"
    assert parse("openai:m@https://api.openai.com.elsewhere.example/v1").key() == ""
    assert parse(f"openai:m@{URL}").key() == ""
    monkeypatch.setenv("VALIGN_API_KEY", "for-others")
    assert parse(f"openai:m@{URL}").key() == "for-others"
    monkeypatch.setenv("VALIGN_API_KEY", "schlüssel")
    with pytest.raises(UsageError, match="holds signs") as error:
        parse(f"openai:m@{URL}").key()
    assert "schl" not in str(error.value)
    with pytest.raises(UsageError, match="MY_KEY is not set"):
        parse(f"openai:m@{URL}#key_env=MY_KEY").key()
