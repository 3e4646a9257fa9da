"""Writing small files and reading them back."""

import pytest

from dlkit.core.errors import DlkitError
from dlkit.core.reading import Reading
from dlkit.data import load


@pytest.fixture
def write(tmp_path):
    """write(name, content) makes a file and returns its path."""

    def make(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return make


@pytest.fixture
def refused():
    """refused(source, **options) is the error that loading ends in."""

    def attempt(source: str, **options) -> DlkitError:
        with pytest.raises(DlkitError) as caught:
            load(source, Reading(**options))
        assert "\n" not in caught.value.message
        return caught.value

    return attempt
