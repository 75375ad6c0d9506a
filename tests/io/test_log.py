"""The callback that shows work is given, a bar, or silence."""

from jaxsplit.io.log import shown


def test_work_is_shown_unless_it_is_silent_or_logged(capsys):
    told = []
    for progress, log in ((False, None), (None, None), (True, lambda *text: told.append(text))):
        with shown(progress, log) as callback:
            callback("counting")
    assert told == [("counting",)]
    assert capsys.readouterr().err == ""
    with shown(True, None, after=60.0) as callback:
        callback("counting")
    assert capsys.readouterr().err == ""
    with shown(True, None) as callback:
        callback("counting")
    assert capsys.readouterr().err == "counting\n"
