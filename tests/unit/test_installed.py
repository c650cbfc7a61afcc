from importlib.metadata import PackageNotFoundError, distributions, version

import pytest

from pipelines.installed import version_of


def test_versions_are_those_that_the_standard_library_finds():
    names = {found.metadata["Name"] for found in distributions()}
    assert {"lockstep", "deltalake", "torch"} <= names
    assert {name: version_of(name) for name in names} == {name: version(name) for name in names}


def test_a_package_that_is_not_installed_is_said_to_be_missing():
    with pytest.raises(PackageNotFoundError):
        version_of("nobody-has-written-this")
