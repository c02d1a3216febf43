from hypothesis import given
from hypothesis import strategies as st

from loadtest.playout import FRAME_BYTES, PlayoutBuffer
from voice_agent.audio.g711 import SILENCE

SILENT = SILENCE * FRAME_BYTES


def ticks(buffer, count):
    """Frames and marks of the next ticks."""
    return [buffer.tick() for _ in range(count)]


def test_audio_is_played_a_frame_a_tick_and_padded_at_its_end():
    buffer = PlayoutBuffer()
    buffer.media(b"\x01" * 400)
    frames = [frame for frame, _ in ticks(buffer, 4)]
    assert frames == [b"\x01" * 160, b"\x01" * 160, b"\x01" * 80 + SILENCE * 80, SILENT]


def test_a_mark_comes_back_when_the_audio_before_it_has_sounded():
    buffer = PlayoutBuffer()
    buffer.media(b"\x01" * 320)
    assert buffer.mark("a") == []
    buffer.media(b"\x01" * 160)
    assert buffer.mark("b") == []
    assert [marks for _, marks in ticks(buffer, 5)] == [[], [], ["a"], ["b"], []]


def test_a_mark_on_an_idle_line_comes_back_at_once():
    buffer = PlayoutBuffer()
    assert buffer.mark("a") == ["a"]
    buffer.media(b"\x01" * 160)
    ticks(buffer, 1)
    assert buffer.mark("b") == [], "the frame still sounds"
    assert ticks(buffer, 1)[0][1] == ["b"]
    assert buffer.mark("c") == ["c"]


def test_clear_empties_and_echoes_all_outstanding_marks_in_order():
    buffer = PlayoutBuffer()
    buffer.media(b"\x01" * 800)
    buffer.mark("a")
    buffer.media(b"\x01" * 160)
    buffer.mark("b")
    ticks(buffer, 2)
    assert buffer.clear() == ["a", "b"]
    assert ticks(buffer, 2) == [(SILENT, []), (SILENT, [])]
    assert buffer.cleared_bytes == 640
    buffer.media(b"\x02" * 160)
    assert buffer.mark("c") == []
    assert [marks for _, marks in ticks(buffer, 2)] == [[], ["c"]]


def test_a_hole_inside_a_clause_is_starved():
    buffer = PlayoutBuffer()
    buffer.media(b"\x01" * 160)
    ticks(buffer, 4)
    buffer.media(b"\x01" * 160)
    (hole,) = buffer.underruns
    assert (hole.at_ms, hole.gap_ms, hole.starved, hole.cleared) == (20, 60, True, False)


def test_a_hole_after_a_mark_is_a_pause():
    buffer = PlayoutBuffer()
    buffer.media(b"\x01" * 160)
    buffer.mark("end of clause")
    ticks(buffer, 4)
    buffer.media(b"\x01" * 160)
    assert [hole.starved for hole in buffer.underruns] == [False]


def test_a_hole_made_by_clear_is_nobodys_fault():
    buffer = PlayoutBuffer()
    buffer.media(b"\x01" * 1600)
    ticks(buffer, 2)
    buffer.clear()
    ticks(buffer, 5)
    buffer.media(b"\x01" * 160)
    assert [(hole.starved, hole.cleared) for hole in buffer.underruns] == [(False, True)]


def test_a_piece_smaller_than_a_frame_starves_for_the_rest_of_it():
    buffer = PlayoutBuffer()
    buffer.media(b"\x01" * 80)
    ticks(buffer, 1)
    buffer.media(b"\x01" * 80)
    assert [(hole.at_ms, hole.gap_ms, hole.starved) for hole in buffer.underruns] == [(10, 10, True)]


def test_silence_before_the_first_audio_is_no_hole():
    buffer = PlayoutBuffer()
    ticks(buffer, 10)
    buffer.media(b"\x01" * 160)
    assert buffer.underruns == []


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("media"), st.integers(0, 900)),
        st.tuples(st.just("mark"), st.just(0)),
        st.tuples(st.just("clear"), st.just(0)),
        st.tuples(st.just("tick"), st.integers(1, 6)),
    ),
    max_size=60,
)


@given(OPERATIONS)
def test_every_mark_comes_back_once_in_order_and_no_byte_is_lost(operations):
    buffer, sent, echoed, received, heard = PlayoutBuffer(), [], [], 0, 0
    for operation, number in [*operations, ("tick", 2000)]:
        if operation == "media":
            buffer.media(b"\x01" * number)
            received += number
        elif operation == "mark":
            sent.append(str(len(sent)))
            echoed += buffer.mark(sent[-1])
        elif operation == "clear":
            echoed += buffer.clear()
        else:
            for frame, names in ticks(buffer, number):
                echoed += names
                heard += frame.count(b"\x01")
    assert echoed == sent
    assert heard + buffer.cleared_bytes == received
    assert heard == buffer.played_bytes
