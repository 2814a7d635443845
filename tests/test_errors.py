"""The error tree: codes are stable and unique, statuses never make clients send code again."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from pathlib import Path

import pytest

from kernelagent import errors
from kernelagent.errors import (
    ApiError,
    ConfigurationError,
    InternalError,
    KernelagentError,
    NotReady,
)

PACKAGE = Path(inspect.getfile(errors)).parent
ERRORS_PAGE = PACKAGE.parent / "docs" / "errors.md"

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, ApiError) and value is not ApiError
]


@functools.cache
def calls_in_the_package() -> set[str]:
    """The name of everything that some module other than errors.py calls."""
    return {
        node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        for path in PACKAGE.rglob("*.py")
        if path != PACKAGE / "errors.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    }


def test_there_are_errors_to_check() -> None:
    assert len(CLASSES) > 15


def test_no_two_errors_have_the_same_code() -> None:
    codes = [error.code for error in CLASSES]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("error", CLASSES)
def test_each_code_follows_from_the_name_of_its_class(error: type[ApiError]) -> None:
    words = re.findall("[A-Z][a-z]+", error.__name__)
    assert error.code == "_".join(words).upper()


@pytest.mark.parametrize("error", CLASSES)
def test_no_status_makes_a_published_client_send_the_code_again(error: type[ApiError]) -> None:
    # They retry on 429 and on every 5xx.
    if error is InternalError:
        assert error.status == 500
    elif error is NotReady:
        # Only the readiness probe is answered so, which no client sends and which runs nothing.
        assert error.status == 503
    else:
        assert 400 <= error.status < 500
        assert error.status != 429


@pytest.mark.parametrize("error", CLASSES)
def test_each_error_says_in_a_sentence_when_it_comes(error: type[ApiError]) -> None:
    sentence = inspect.getdoc(error) or ""
    assert sentence
    assert sentence != inspect.getdoc(ApiError), "has none of its own"
    assert sentence.splitlines()[0].endswith(".")


@pytest.mark.parametrize("error", CLASSES)
def test_each_error_is_raised_somewhere(error: type[ApiError]) -> None:
    assert error.__name__ in calls_in_the_package()


@pytest.mark.parametrize("error", CLASSES)
def test_each_error_is_documented_with_its_status(error: type[ApiError]) -> None:
    assert f"| `{error.code}` | {error.status} |" in ERRORS_PAGE.read_text()


@pytest.mark.parametrize("error", CLASSES)
def test_an_error_carries_its_sentence_and_its_details(error: type[ApiError]) -> None:
    assert str(error("what happened")) == "what happened"
    assert error("what happened").details == {}
    assert error("what happened", details={"limit": 3}).details == {"limit": 3}


def test_a_wrong_configuration_is_no_error_of_a_caller() -> None:
    assert issubclass(ConfigurationError, KernelagentError)
    assert not issubclass(ConfigurationError, ApiError)
