"""Numbers that no training can have are refused by ``normdyn fit`` in its own words, before a trainer is built."""

import pytest

from lightning_normdyn.cli.config_errors import ConfigError
from lightning_normdyn.cli.main import main
from lightning_normdyn.cli.trainer_options import check_trainer_options

QUICK = ["fit", "--config=sts.yaml", "--trainer.logger=false", "--trainer.enable_checkpointing=false"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--trainer.devices=-2"],
            "trainer.devices: expected 'auto' or a number of processes, 1 or more, on the CPU, ",
        ),
        (
            ["--trainer.devices=-1"],
            "trainer.devices: expected 'auto' or a number of processes, 1 or more, on the CPU, ",
        ),
        (
            ["--trainer.devices=bad"],
            "trainer.devices: expected 'auto' or a number of processes, 1 or more, on the CPU, ",
        ),
        (["--trainer.devices=[0,1]"], "trainer.devices: expected 'auto' or a number of processes"),
        (["--trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches: expected 1 or more, got 0; 1 "),
        (["--trainer.max_epochs=-3"], "trainer.max_epochs: expected 0 or more, or -1 for no end, got -3"),
        (["--trainer.check_val_every_n_epoch=0"], "trainer.check_val_every_n_epoch: expected 1 or more, got 0"),
        (["--trainer.gradient_clip_val=-1"], "trainer.gradient_clip_val: expected 0 or more, got -1"),
        (["--optimizer=SGD", "--optimizer.lr=-1"], "optimizer.lr: expected a number, 0 or more, got -1"),
        (["--model.lr=-1"], "lr: expected a positive number, got -1.0"),
    ],
)
def test_a_number_out_of_range_is_named(words, message, capsys):
    assert main([*QUICK, *words]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"normdyn: {message}")


@pytest.mark.parametrize("devices", ["1.0", 1.0, "1_0"])
def test_processes_on_the_cpu_are_a_whole_number_as_lightning_reads_it(devices):
    with pytest.raises(ConfigError, match=r"^trainer\.devices: expected 'auto' or a number of processes, 1 or more"):
        check_trainer_options({"accelerator": "cpu", "devices": devices})


@pytest.mark.parametrize("accelerator", ["gpu", "tpu"])
@pytest.mark.parametrize("devices", [-1, "-1", "0,1", [0]])
def test_devices_of_another_accelerator_are_not_taken_for_processes_of_the_cpu(accelerator, devices):
    check_trainer_options({"accelerator": accelerator, "devices": devices})


def test_numbers_in_range_and_words_pass():
    check_trainer_options(
        {"accelerator": "cpu", "devices": "auto", "max_epochs": -1, "max_steps": -1, "min_epochs": None}
    )
    check_trainer_options({"accelerator": "cpu", "devices": "2", "gradient_clip_val": 0.0, "val_check_interval": 0.25})
    with pytest.raises(ConfigError, match=r"^trainer\.max_steps: expected 0 or more, or -1 for no end, got -5$"):
        check_trainer_options({"accelerator": "cpu", "max_steps": -5})


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("CaptionedImagesSource", "expected {kinds}, got 'CaptionedImagesSource', which is abstract"),
        (
            "lightning_normdyn.datasets.CaptionedImages",
            "expected a subclass of CaptionedImagesSource, such as {kinds}, got 'lightning_normdyn.datasets.Captioned",
        ),
    ],
)
def test_a_class_that_will_not_do_is_answered_with_those_that_will(word, message, capsys):
    assert main(["fit", "--config=clip.yaml", f"--data.source={word}"]) == 2
    printed = capsys.readouterr().err.splitlines()[-1]
    before, after = f"normdyn: data.source: {message}".split("{kinds}")
    kinds = printed.removeprefix(before).partition(after)[0].split(", ")
    assert printed.startswith(f"{before}{', '.join(kinds)}{after}")
    assert {"ImageTextTable", "StandardLibraryGlyphCaptions", "WebDatasetShards"} <= set(kinds)  # and those of tests
    assert "CaptionedImagesSource" not in kinds
