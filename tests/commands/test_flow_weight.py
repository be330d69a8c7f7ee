"""Training with a flow regulariser from the command line: what is shown, and what is refused."""

import pytest
from small_corpus import write_small_corpus

from jaxflow.commands import _console, main
from jaxflow.train.loop import Progress


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--flow-weight", "-1"], "flow_weight must be at least 0, got -1.0"),
        (["--flow-weight", "much"], "much"),
        (["--data", "agreement", "--flow-weight", "1"], "must be 0 for the corpus simple"),
    ],
)
def test_a_weight_that_is_refused(tmp_path, monkeypatch, capfd, options, part):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_small_corpus(tmp_path / "agreement")
    assert main(["train", "--out", "run", *options]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert part in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_share_is_shown_beside_the_loss(capfd):
    with _console.training() as report:
        report(Progress(1, 10, loss=0.5, accuracy=0.75))
        report(Progress(10, 10, loss=0.25, accuracy=0.875, subject_share=0.4375))
    plain, regularised = capfd.readouterr().err.splitlines()
    assert "loss 0.500  accuracy 0.750" in plain
    assert "share" not in plain
    assert "loss 0.250  accuracy 0.875  subject's share 0.438" in regularised
