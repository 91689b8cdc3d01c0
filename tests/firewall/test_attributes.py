import pytest

from amiwatch.firewall.attributes import Picture


@pytest.fixture
def picture() -> Picture:
    """Elements that begin with 8, hold two octets and end with 0."""
    return Picture([8, None, None, 0])


@pytest.mark.parametrize("packed", [b"\x08ab\0", b"\x08ab\0\x08\xff\xff\0", b"\x08\0\0\0" * 385, b""])
def test_elements_that_lie_alike_fit_whatever_they_hold(picture: Picture, packed: bytes) -> None:
    assert picture.fits(memoryview(packed))


@pytest.mark.parametrize(
    "packed",
    [
        b"\x09ab\0",
        b"\x08ab\0\x08ab\x01",
        b"\x08ab\0" * 100 + b"\x00ab\0" + b"\x08ab\0" * 100,
        b"\x08ab\0\x08a",
        b"\x08ab",
    ],
)
def test_one_that_lies_otherwise_or_is_cut_does_not(picture: Picture, packed: bytes) -> None:
    assert not picture.fits(memoryview(packed))
