"""audio_folder, on tones made here: there is no recording in the packages that the tests use."""

import os

import numpy as np
import pytest
import soundfile
from filekit import check_cache, check_promises, check_two_groups, epoch, touch

from hydrax_core.sources import audio_folder


def tone(hertz, seconds=1.0, rate=16_000):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def save(path, sound, rate=16_000, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, rate, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    for label, hertz in (("high", 2000), ("low", 200)):
        for number in range(4):
            save(tmp_path / "set" / label / f"{number}.wav", tone(hertz, 0.2 + 0.3 * number))
    return tmp_path / "set"


def pitch(sound, rate):
    return np.argmax(np.abs(np.fft.rfft(sound))) * rate / len(sound)


def row(folder, seed=None, **options):
    """The first file of a folder."""
    source = audio_folder(folder, batch_size=1, **options)
    arrays = {
        name: np.full(layout.shape[1:], 7, layout.numpy_dtype)
        for name, layout in source.training.loader_layouts.items()
    }
    source.loader_func(source.training[0], arrays, seed)
    return arrays["audio"][: arrays["length"]], arrays["audio"][arrays["length"] :]


def test_sound_comes_with_its_length_and_label(folder):
    source = audio_folder(folder, seconds=0.5, batch_size=4)
    arrays, more = epoch(source.training)
    assert source.classes == ("high", "low")
    assert arrays["label"].tolist() == [0] * 4 + [1] * 4
    assert arrays["length"].tolist() == [3200, 8000, 8000, 8000] * 2
    assert [each["path"] for each in more][:2] == ["high/0.wav", "high/1.wav"]
    for sound, length, label in zip(arrays["audio"], arrays["length"], arrays["label"], strict=True):
        assert abs(pitch(sound[:length], 16_000) - (2000, 200)[label]) < 10
        assert not sound[length:].any()
    check_promises(source.training)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("rate", [8000, 22_050, 48_000])
def test_other_rates_and_formats_are_resampled(tmp_path, suffix, rate):
    save(tmp_path / f"a.{suffix}", tone(440, 1.0, rate), rate)
    sound, rest = row(tmp_path, seconds=0.75)
    assert len(sound) == 12_000
    assert not len(rest)
    assert abs(pitch(sound, 16_000) - 440) < 4
    assert 0.3 < np.abs(sound[2000:10_000]).max() < 0.6


def test_a_long_file_is_cut_by_the_seed_and_from_the_beginning_in_validation(tmp_path):
    whole = np.linspace(-0.5, 0.5, 16_000).astype(np.float32)
    save(tmp_path / "a.wav", whole, subtype="FLOAT")
    parts = [row(tmp_path, seed, seconds=0.1)[0] for seed in (1, 1, 2, None)]
    assert (parts[0] == parts[1]).all()
    assert (parts[0] != parts[2]).any()
    np.testing.assert_array_equal(parts[3], whole[:1600])
    for part in parts:
        start = np.searchsorted(whole, part[0])
        np.testing.assert_array_equal(part, whole[start : start + 1600])


def test_channels_are_averaged_or_kept(tmp_path):
    both = np.stack([tone(440), -tone(440)], 1)
    save(tmp_path / "a.wav", both, subtype="FLOAT")
    assert not row(tmp_path, seconds=0.1)[0].any()
    np.testing.assert_array_equal(row(tmp_path, seconds=0.1, channels=2)[0], both[:1600])
    with pytest.raises(ValueError, match=r"a\.wav: it has 2 channels, not 3"):
        row(tmp_path, seconds=0.1, channels=3)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("keep", [0, 20, 0.6])
def test_a_damaged_file_is_named(tmp_path, suffix, keep):
    path = save(tmp_path / f"a.{suffix}", tone(440) + tone(441))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=rf"a\.{suffix}"):
        row(tmp_path, seconds=1.0)


def test_a_fifo_is_refused_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(ValueError, match=r"a\.wav is a FIFO|holds no sound"):
        row(tmp_path, seconds=1.0)


def test_sounds_for_the_test_are_never_trained_on(tmp_path):
    for side in ("training", "Testing"):
        save(tmp_path / side / "low" / "0.wav", tone(200, 0.1))
    with pytest.raises(ValueError, match=r"has training/, Testing/, and none for validation"):
        audio_folder(tmp_path, seconds=0.1)
    save(tmp_path / "dev" / "low" / "0.wav", tone(200, 0.1))
    source = audio_folder(tmp_path, seconds=0.1)
    assert source.classes == ("low",)
    assert [list(group) for group in (source.training, source.validation)] == [
        [("training/low/0.wav", 0)], [("dev/low/0.wav", 0)],
    ]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), [({"seconds": 0}, "seconds"), ({"seconds": 1, "rate": 0}, "rate")])
def test_wrong_arguments_are_named(folder, options, message):
    with pytest.raises(ValueError, match=message):
        audio_folder(folder, **options)


def test_two_folders_in_one_loader_and_a_cache_of_one(folder, tmp_path):
    def make(split=0.5):
        return audio_folder(folder, seconds=1.2, batch_size=4, split=split)

    sides = make()
    check_two_groups(sides.training, sides.validation)
    check_cache(lambda: make(None).training, lambda: touch(folder / "low" / "0.wav"), tmp_path / "cache")
