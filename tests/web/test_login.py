import base64

import pytest

from video_module.errors import InputError
from video_module.web import login
from video_module.web.limits import Refused
from video_module.web.login import Accounts, read_accounts


@pytest.fixture
def accounts(clock) -> Accounts:
    return Accounts({"anna": "secret", "борис": "пароль: да"}, clock=clock)


def test_accounts_are_read_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(login.ENVIRONMENT, raising=False)
    assert read_accounts(None) == {}
    path = tmp_path / "accounts"
    path.write_text("anna:secret\n\nборис:пароль: да\n", encoding="utf-8")
    assert read_accounts(path) == {"anna": "secret", "борис": "пароль: да"}
    monkeypatch.setenv(login.ENVIRONMENT, "carl:other")
    assert read_accounts(None) == {"carl": "other"}
    assert "carl" not in read_accounts(path)


@pytest.mark.parametrize("text", ["anna", ":secret", "anna:", ""])
def test_a_bad_file_is_refused_without_showing_passwords(tmp_path, text):
    path = tmp_path / "accounts"
    path.write_text(f"boris:hidden\n{text}\n" if text else "\n")
    with pytest.raises(InputError) as error:
        read_accounts(path)
    assert "accounts" in str(error.value) and "secret" not in str(error.value)


def test_a_session_is_valid_until_sign_out(accounts):
    assert accounts.sign_in("anna", "пароль: да", address="a") is None
    one, other = (accounts.sign_in("борис", "пароль: да", address="a") for _ in range(2))
    assert one != other and accounts.knows(one) and accounts.knows(other)
    accounts.sign_out(one)
    assert not accounts.knows(one) and accounts.knows(other)
    assert not accounts.knows("") and not accounts.knows("x")


def test_a_session_expires(accounts, clock):
    token = accounts.sign_in("anna", "secret", address="a")
    clock.now += 13 * 3600
    assert not accounts.knows(token)


def test_wrong_passwords_delay_only_their_address(accounts, clock):
    waits = []
    for _ in range(12):
        while True:
            try:
                assert not accounts.check("anna", "guess", address="a")
                break
            except Refused as refusal:
                assert refusal.status == 429
                waits.append(refusal.values["seconds"])
                clock.now += refusal.values["seconds"]
    assert waits == sorted(waits) and len(waits) == 7 and waits[-1] >= 64
    with pytest.raises(Refused):
        accounts.check("anna", "secret", address="a")  # even the right password has to wait
    assert accounts.check("anna", "secret", address="b")
    clock.now += 1000
    assert accounts.check("anna", "secret", address="a")
    assert not accounts.check("anna", "guess", address="a")  # the count has been reset
    assert accounts.check("anna", "secret", address="a")


def test_an_own_login_does_not_clear_guesses_at_other_accounts(accounts, clock):
    for _ in range(4):
        assert not accounts.check("anna", "guess", address="a")
        assert not accounts.check("борис", "typo", address="b")
    assert accounts.check("борис", "пароль: да", address="a")
    assert not accounts.check("anna", "guess", address="a")
    with pytest.raises(Refused, match="too_many_attempts"):
        accounts.check("anna", "guess", address="a")
    # The owner's own typos are cleared.
    assert accounts.check("борис", "пароль: да", address="b")
    for _ in range(4):
        assert not accounts.check("борис", "typo", address="b")
    assert accounts.check("борис", "пароль: да", address="b")


def test_wrong_attempts_are_forgotten_after_an_hour(accounts, clock):
    for _ in range(4):
        assert not accounts.check("anna", "guess", address="a")
    clock.now += 3601
    assert not accounts.check("anna", "guess", address="a")
    assert accounts.check("anna", "secret", address="a")


def test_guessing_for_days_only_ever_waits(accounts, clock):
    for _ in range(1100):
        clock.now += 301
        assert not accounts.check("anna", "guess", address="a")
    with pytest.raises(Refused, match="too_many_attempts") as refused:
        accounts.check("anna", "guess", address="a")
    assert refused.value.values == {"seconds": 300}


def test_number_of_remembered_addresses_is_bounded(accounts, monkeypatch):
    monkeypatch.setattr(login, "_MAX_ADDRESSES", 50)
    for number in range(200):
        accounts.check("anna", "guess", address=str(number))
    assert len(accounts._wrong) == 50


def test_basic_authorization(accounts):
    def header(text: str) -> str:
        return "Basic " + base64.b64encode(text.encode()).decode()

    assert accounts.knows_basic(header("борис:пароль: да"), address="a")
    for wrong in (header("anna:other"), header("anna"), "Basic ???", "Basic", "Bearer x", "", header("eve:")):
        assert not accounts.knows_basic(wrong, address="a")
        assert accounts.check("anna", "secret", address="a")


def test_the_login_page_escapes_html(accounts):
    page = login.login_page(login_texts(), action='/"><script>', message="<b>")
    assert "<script>" not in page and "<b>" not in page


def login_texts() -> dict[str, str]:
    from video_module.web.texts import TEXTS

    return TEXTS["en"]
