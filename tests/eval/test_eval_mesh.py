"""Compare attributions on eight devices with those on one."""

import numpy as np
import pytest
from many_devices import run_on_devices
from mesh_attributions import SENTENCES, attributions

pytestmark = pytest.mark.nightly  # the mesh itself is tested with the training step


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    file = tmp_path_factory.mktemp("mesh") / "attributions.npz"
    said = run_on_devices(8, "mesh_attributions.py", file)
    assert said == {"devices": 8}
    with np.load(file) as arrays:
        return attributions(), dict(arrays)


def test_every_attribution_is_that_of_one_device(both):
    one, eight = both
    assert one.keys() == eight.keys()
    assert len(one) == 3 * 10 + 8 + 1
    for name, expected in one.items():
        assert len(expected) == SENTENCES
        np.testing.assert_allclose(eight[name], expected, rtol=0, atol=1e-5, err_msg=name)


def test_rows_that_were_dealt_out_wrongly_would_be_seen(both):
    for name, values in both[0].items():
        # The sum of a gradient's coordinates is rounding where all that is read is normalised.
        if not name.endswith(("saturated", "position", "gradient")):
            known = np.nan_to_num(values)
            assert np.abs(known - np.roll(known, 1, axis=0)).max() > 1e-3, name
