import pytest
from hypothesis import given
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator

from voice_agent.twilio import signature

TOKEN = "12345"
FORM = {"CallSid": "CA1234567890ABCDE", "From": "+14158675309", "Digits": "1234", "To": "+18005551212"}


def test_published_example():
    """The worked example of Twilio's "Validating requests" page."""
    params = {
        "CallSid": "CA1234567890ABCDE",
        "Caller": "+14158675309",
        "Digits": "1234",
        "From": "+14158675309",
        "To": "+18005551212",
    }
    assert (
        signature.compute(TOKEN, "https://mycompany.com/myapp.php?foo=1&bar=2", params)
        == "RSOYDt4T1cUTdK1PDd93/VVr8B8="
    )


@given(
    token=st.text(min_size=1, max_size=40),
    path=st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=20),
    params=st.dictionaries(st.text(max_size=10), st.text(max_size=20), max_size=8),
)
def test_same_as_the_official_library(token, path, params):
    url = f"https://example.com/{path}"
    assert signature.compute(token, url, params) == RequestValidator(token).compute_signature(url, params)


@pytest.mark.parametrize(
    "url",
    [
        "https://h.example/v",
        "https://h.example:443/v",
        "http://h.example/v",
        "http://h.example:80/v",
        "http://h:8080/v",
    ],
)
@pytest.mark.parametrize(
    "signed",
    [
        "https://h.example/v",
        "https://h.example:443/v",
        "http://h.example/v",
        "http://h.example:80/v",
        "http://h:8080/v",
    ],
)
def test_webhook_agrees_with_the_official_validator(url, signed):
    given_signature = signature.compute(TOKEN, signed, FORM)
    official = RequestValidator(TOKEN).validate(url, FORM, given_signature)
    assert signature.webhook_valid(TOKEN, given_signature, url, FORM) == official


def test_webhook_refuses_any_change():
    url = "https://h.example/v"
    good = signature.compute(TOKEN, url, FORM)
    assert signature.webhook_valid(TOKEN, good, url, FORM)
    assert not signature.webhook_valid(TOKEN, good, url, {**FORM, "From": "+1"})
    assert not signature.webhook_valid(TOKEN, good, url, {**FORM, "New": ""})
    assert not signature.webhook_valid(TOKEN, good, url + "/", FORM)
    assert not signature.webhook_valid("other", good, url, FORM)
    assert not signature.webhook_valid(TOKEN, "", url, FORM)
    assert not signature.webhook_valid(TOKEN, "ä", url, FORM)


def test_no_auth_token_accepts_nothing():
    url = "https://h.example/v"
    assert not signature.webhook_valid("", signature.compute("", url, FORM), url, FORM)


def test_repeated_parameter():
    url = "https://h.example/v"
    assert signature.compute(TOKEN, url, {"a": ["2", "1", "2"]}) == signature.compute(TOKEN, url, {"a": ["1", "2"]})
    assert signature.compute(TOKEN, url, {"a": ["1"]}) == signature.compute(TOKEN, url, {"a": "1"})


@pytest.mark.parametrize("configured", ["wss://h.example/media", "wss://h.example:443/media", "wss://h.example/media/"])
@pytest.mark.parametrize("scheme", ["wss", "https"])
@pytest.mark.parametrize("port", ["", ":443"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_upgrade_spellings_of_one_endpoint(configured, scheme, port, slash):
    given_signature = RequestValidator(TOKEN).compute_signature(f"{scheme}://h.example{port}/media{slash}", {})
    assert signature.upgrade_valid(TOKEN, given_signature, configured)


def test_the_official_validator_gets_wss_wrong():
    """Why the upgrade has a check of its own: the library takes 80 for the default port of wss."""
    given_signature = signature.compute(TOKEN, "wss://h.example:443/media", {})
    assert not RequestValidator(TOKEN).validate("wss://h.example/media", {}, given_signature)
    assert signature.upgrade_valid(TOKEN, given_signature, "wss://h.example/media")


@pytest.mark.parametrize(
    "signed",
    [
        "wss://evil.example/media",
        "wss://h.example/other",
        "wss://h.example:8443/media",
        "wss://h.example:80/media",
        "ws://h.example/media",
        "http://h.example/media",
    ],
)
def test_upgrade_refuses_other_endpoints(signed):
    assert not signature.upgrade_valid(TOKEN, signature.compute(TOKEN, signed, {}), "wss://h.example/media")


def test_local_socket_with_a_port():
    url = "ws://127.0.0.1:8090/media"
    assert signature.upgrade_valid(TOKEN, signature.compute(TOKEN, url, {}), url)
