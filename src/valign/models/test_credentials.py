"""No credential survives `hide`; ordinary text does."""

from __future__ import annotations

import pytest

from valign.models.credentials import hidden, hide

SECRET = "hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f"https://me:{SECRET}@host/v1",
        f"openai:gpt@https://me:{SECRET}@host/v1",
        f"https://me:p@{SECRET}@host/v1",
        f"https://{SECRET}@host",
        f"https://host/v1?api_key={SECRET}&x=1",
        f"there is no model 'openai:gpt@https://me:{SECRET}@host/v1'",
        f"password: {SECRET}",
        f"access-token={SECRET}",
        f"Authorization: Bearer {SECRET}",
        "hf_abcdefghijklmnopqrst",
        "sk-proj-abcdefghijklmnop",
    ],
)
def test_credentials_are_hidden(text):
    shown = hide(text)
    assert SECRET not in shown
    assert "abcdefghij" not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    "text",
    [
        "max_new_tokens=4",
        "https://host/v1#part",
        "stop token: trained in 100.0% of 24",
        "me@host.example",
        "a: b",
        "tokens: 3",
    ],
)
def test_ordinary_text_stays(text):
    assert hide(text) == text


def test_json_is_hidden_all_through_and_by_its_keys():
    content = {
        "model": f"https://a:{SECRET}@h",
        "deep": [{"api_key": SECRET, "beta": 0.1, "n": None}],
        "hub_token": SECRET,
    }
    shown = hidden(content)
    assert SECRET not in repr(shown)
    assert shown["deep"][0] == {"api_key": "***", "beta": 0.1, "n": None}
