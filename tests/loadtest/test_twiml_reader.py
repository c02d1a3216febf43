import pytest

from loadtest import twiml
from voice_agent.errors import ProtocolError


def test_the_document_of_a_call():
    verbs = twiml.parse(
        '<?xml version="1.0" encoding="UTF-8"?><Response><Connect action="https://e/ended">'
        '<Stream url="wss://e/media" statusCallback="https://e/s"><Parameter name="token" value="a&amp;b"/></Stream>'
        "</Connect><Say>Good  bye.</Say><Pause length='2'/><Redirect> /x </Redirect><Dial><Number>+1555</Number></Dial>"
        "<Dial><Sip>sip:a@b</Sip></Dial><Enqueue>sales</Enqueue><Reject reason='busy'/><Hangup/></Response>"
    )
    assert verbs == (
        twiml.Connect(twiml.Stream("wss://e/media", "https://e/s", {"token": "a&b"}), "https://e/ended"),
        twiml.Say("Good bye."),
        twiml.Pause(2.0),
        twiml.Redirect("/x"),
        twiml.Dial("+1555"),
        twiml.Dial("sip:a@b"),
        twiml.Enqueue("sales"),
        twiml.Reject("busy"),
        twiml.Hangup(),
    )


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ("", "not XML"),
        ("<Response>", "not XML"),
        ("Hello", "not XML"),
        ("<Answer/>", "root must be Response"),
        ("<Response><Sing/></Response>", "verb Sing is not known"),
        ("<Response><Connect/></Response>", "exactly one Stream"),
        ("<Response><Connect><Room/></Connect></Response>", "exactly one Stream"),
        ("<Response><Connect><Stream/></Connect></Response>", "must be a WebSocket URL"),
        ("<Response><Connect><Stream url='https://e/m'/></Connect></Response>", "must be a WebSocket URL"),
        ("<Response><Connect><Stream url='wss://e/m?a=1'/></Connect></Response>", "query string"),
        ("<Response><Connect><Stream url='wss://e/m'><X/></Stream></Connect></Response>", "only hold Parameter"),
        (
            f"<Response><Connect><Stream url='wss://e/m'><Parameter name='t' value='{'x' * 499}'/></Stream></Connect>"
            "</Response>",
            "longer than 500",
        ),
        ("<Response><Pause length='long'/></Response>", "number of seconds"),
        ("<Response><Redirect/></Response>", "must hold a URL"),
        ("<Response><Dial/></Response>", "somebody to be dialled"),
        ("<Response><Enqueue/></Response>", "name of a queue"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><Response>&a;</Response>", "document type"),
    ],
)
def test_what_twilio_refuses_is_refused(document, error):
    with pytest.raises(ProtocolError, match=error):
        twiml.parse(document)
