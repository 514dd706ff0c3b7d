"""One person, one pseudonym; and none without the key."""

from __future__ import annotations

import hashlib
import hmac
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotage.errors import ConfigError
from pilotage.pseudonyms import Pseudonyms
from pilotage.settings import Settings

KEY = bytes(range(32))
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.dates()


@given(VALUES, VALUES)
def test_two_values_have_the_same_pseudonym_exactly_if_they_are_the_same(one: object, other: object) -> None:
    pseudonyms = Pseudonyms(KEY)
    alike = one == other and isinstance(one, bool) == isinstance(other, bool)
    assert (pseudonyms.apply("name", one) == pseudonyms.apply("name", other)) == alike


@given(VALUES.filter(lambda value: value is not None))
def test_a_pseudonym_looks_like_one_and_tells_nothing_of_the_value(value: object) -> None:
    assert re.fullmatch(r"pseudonym:[0-9a-f]{32}", Pseudonyms(KEY).apply("name", value) or "")


def test_a_missing_value_stays_missing() -> None:
    assert Pseudonyms(KEY).apply("name", None) is None


def test_the_same_value_in_another_field_or_under_another_key_has_another_pseudonym() -> None:
    here = Pseudonyms(KEY).apply("name", "Ada")
    assert here != Pseudonyms(KEY).apply("employer", "Ada")
    assert here != Pseudonyms(KEY[::-1]).apply("name", "Ada")
    assert Pseudonyms(KEY).apply("a", "b\0c") != Pseudonyms(KEY).apply("a\0b", "c")


def test_the_pseudonyms_of_all_years_are_those_of_this_release() -> None:
    message = b'pilotage pseudonym 1\0name\0"Ada"'
    expected = hmac.new(KEY, message, hashlib.sha256).hexdigest()[:32]
    assert Pseudonyms(KEY).apply("name", "Ada") == f"pseudonym:{expected}"
    assert Pseudonyms(KEY).apply("born", date(1815, 12, 10)) == Pseudonyms(KEY).apply("born", "1815-12-10")
    assert Pseudonyms(KEY).apply("number", 7) == Pseudonyms(KEY).apply("number", 7.0)


def test_hide_replaces_the_personal_fields_and_no_others() -> None:
    pseudonyms = Pseudonyms(KEY)
    values = {"name": "Ada", "amount": 7, "phone": None}
    assert pseudonyms.hide(values, {"name", "phone"}) == {
        "name": pseudonyms.apply("name", "Ada"),
        "amount": 7,
        "phone": None,
    }


def test_the_key_is_made_once_for_this_user_alone(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    first = Pseudonyms.of(settings).apply("name", "Ada")
    assert Pseudonyms.of(settings).apply("name", "Ada") == first
    assert settings.pseudonym_key.stat().st_mode & 0o777 == 0o600
    assert list(settings.home.iterdir()) == [settings.pseudonym_key]


CHILD = """
import sys
from pathlib import Path
from pilotage.pseudonyms import Pseudonyms
from pilotage.settings import Settings
sys.stdin.readline()
print(Pseudonyms.of(Settings(home=Path(sys.argv[1]))).apply("name", "Ada"))
"""


def test_workers_that_start_at_once_have_the_same_key(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    told = {worker.communicate()[0] for worker in workers}
    assert len(told) == 1
    assert told.pop().startswith("pseudonym:")


def test_a_key_that_a_setting_names_is_never_made(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, pseudonym_key_file=tmp_path / "mounted" / "key")
    with pytest.raises(ConfigError, match="PILOTAGE_PSEUDONYM_KEY_FILE"):
        Pseudonyms.of(settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"short", b"fifteen bytes..\n"])
def test_a_key_that_is_too_short_is_refused_without_being_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pseudonym.key").write_bytes(content)
    with pytest.raises(ConfigError, match="16 or more") as caught:
        Pseudonyms.of(Settings(home=tmp_path))
    assert "fifteen" not in str(caught.value)


def test_a_key_that_can_not_be_read_is_told_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "pseudonym.key").mkdir()
    with pytest.raises(ConfigError, match=r"pseudonym\.key, can't be used"):
        Pseudonyms.of(Settings(home=tmp_path))
