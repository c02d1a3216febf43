import base64
import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from voice_agent.errors import AuthError
from voice_agent.twilio import tokens

CLAIMS = {"call_id": "CA1", "audience": "gateway-1"}
EXPIRES = 1_800_000_000.0


def minted(**changes):
    return tokens.mint("secret", **{**CLAIMS, "expires_at_s": EXPIRES, "nonce": "n1", **changes})


def verified(token, **changes):
    secret = changes.pop("secret", "secret")
    return tokens.verify(secret, token, **{**CLAIMS, "now_s": EXPIRES - 1, **changes})


def test_a_good_token_gives_its_nonce():
    assert verified(minted()) == "n1"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"secret": "other"}, "wrong signature"),
        ({"now_s": EXPIRES}, "expired"),
        ({"now_s": EXPIRES + 3600}, "expired"),
        ({"call_id": "CA2"}, "another call"),
        ({"audience": "gateway-2"}, "another gateway"),
        ({"call_id": "\ud800"}, "another call"),
    ],
)
def test_each_reason_has_its_message(changes, reason):
    with pytest.raises(AuthError, match=reason):
        verified(minted(), **changes)


@pytest.mark.parametrize("token", ["", ".", "abc", "a.b", "ä.ö", "a" * 5000, "a." + "b" * 43])
def test_garbage(token):
    with pytest.raises(AuthError):
        verified(token)


@given(st.text(max_size=300))
def test_no_text_is_accepted(token):
    with pytest.raises(AuthError):
        verified(token)


@given(st.data())
def test_no_changed_character_is_accepted(data):
    token = minted()
    place = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from("abcXYZ019-_.="))
    assume(token[place] != letter)
    with pytest.raises(AuthError):
        verified(token[:place] + letter + token[place + 1 :])


def test_claims_of_another_shape_with_a_right_signature():
    for claims in ([], {"a": 1}, [1, "CA1", "gateway-1", "soon", "n"], 5, [2, "CA1", "gateway-1", 1, "n"]):
        body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
        with pytest.raises(AuthError):
            verified(f"{body}.{tokens._sign('secret', body)}")


@given(st.text(min_size=1, max_size=34), st.text(min_size=1, max_size=20))
def test_bound_to_any_call_and_audience(call_id, audience):
    token = minted(call_id=call_id, audience=audience) if len((call_id + audience).encode()) < 50 else None
    assume(token is not None)
    assert verified(token, call_id=call_id, audience=audience) == "n1"
    with pytest.raises(AuthError):
        verified(token, call_id=audience + call_id, audience=call_id)


def test_no_secret_signs_and_accepts_nothing():
    with pytest.raises(AuthError, match="no stream token secret"):
        tokens.mint("", **CLAIMS, expires_at_s=EXPIRES, nonce="n")
    with pytest.raises(AuthError, match="no stream token secret"):
        verified(minted(), secret="")


def test_fits_a_twiml_parameter():
    token = minted(call_id="CA" + "a" * 32, audience="gateway-12345678", nonce="n" * 32)
    assert len("token" + token) < 500
    with pytest.raises(AuthError, match="characters long"):
        minted(nonce="n" * 400)
