"""What the doctor finds, on machines that are made up, and that it survives what it examines."""

import json
from importlib import metadata

import pytest

from moejax import doctor
from moejax.__main__ import main
from moejax.data import web
from moejax.doctor import Finding, computing, data, machine, versions

CPUINFO = """\
processor	: 0
cpu MHz		: 2500.0
siblings	: 8
cpu cores	: 4
flags		: fpu fma avx avx2
"""


@pytest.fixture
def nothing_here(tmp_path, monkeypatch):
    """No data in any folder, and no network."""

    def unreachable(url: str) -> None:
        raise ConnectionError(f"cannot connect to {url}")

    monkeypatch.delenv("MOEJAX_DATA_DIR", raising=False)
    monkeypatch.setenv("MOEJAX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", "https://index/simple")
    monkeypatch.setattr(web, "probe", unreachable)


def test_every_installed_package_is_as_it_should_be():
    found = {finding.name: finding for finding in versions.packages()}
    assert set(versions.SHOWN) <= set(found)
    assert found["jax"].value == metadata.version("jax")


def test_a_package_that_will_not_do_is_named_with_its_remedy(monkeypatch):
    needs = {"moejax": ["jax>=99", "no-such-package>=1; python_version>'3'", "numpy>=1", "torch; extra=='peers'"]}
    monkeypatch.setattr(metadata, "requires", needs.get)
    assert dict(versions.unmet("moejax")) == {
        "jax": "moejax needs jax>=99: pip install 'jax>=99'.",
        "no-such-package": "moejax needs no-such-package>=1: pip install 'no-such-package>=1'.",
    }
    amiss = {finding.name: finding for finding in versions.packages() if finding.amiss}
    assert amiss["no-such-package"].value == "not installed"
    assert set(amiss) == {"jax", "no-such-package"}


@pytest.mark.parametrize("off", ["0", "off", "No"])
def test_a_variable_that_slows_everything_down_is_said(monkeypatch, off):
    monkeypatch.setenv("JAX_DISABLE_JIT", "1")
    monkeypatch.setenv("JAX_DEBUG_NANS", off)
    found = {finding.name: finding for finding in versions.variables()}
    assert found["JAX_DISABLE_JIT"].amiss.startswith("With it nothing is compiled")
    assert found["JAX_DEBUG_NANS"].amiss == ""


@pytest.mark.parametrize(("text", "quota"), [("max 100000", None), ("150000 100000", 1.5), ("", None), ("1", None)])
def test_a_container_s_quota(text, quota):
    assert machine.quota_of(text) == quota


def test_available_memory():
    assert machine.available_of("MemTotal: 16 kB\nMemAvailable:   2048 kB\n") == 2048 * 1024
    assert machine.available_of("") is None


def test_a_quota_below_the_cores_is_amiss(tmp_path, monkeypatch):
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    monkeypatch.setattr(machine, "QUOTA", tmp_path / "cpu.max")
    cores = next(iter(machine.cores_and_memory()))
    assert "this container gets the time of 0.5" in cores.amiss


def test_a_gpu_that_is_not_used_is_amiss(tmp_path, monkeypatch):
    assert not next(iter(machine.devices())).amiss
    monkeypatch.setattr(machine, "NVIDIA", tmp_path)
    assert "pip install 'moejax[cuda]'" in next(iter(machine.devices())).amiss


def test_no_device_at_all_is_said(monkeypatch):
    def fails():
        raise AssertionError

    monkeypatch.setattr("jax.devices", fails)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    (finding,) = machine.devices()
    assert finding.amiss.startswith(
        "JAX finds no device, with JAX_PLATFORMS=cuda (AssertionError): unset JAX_PLATFORMS"
    )


def test_the_peak_of_a_cpu_by_hand(monkeypatch):
    """Eight threads on four cores of 2.5 GHz: 4 · 2.5e9 · 32."""
    monkeypatch.setattr("moejax.kernels.blas_threads.cores", lambda: 8)
    assert computing.cpu_peak(CPUINFO) == 4 * 2.5e9 * 32
    assert computing.cpu_peak("processor: 0") is None


def test_the_peak_of_an_accelerator_goes_by_its_whole_name():
    assert computing.accelerator_peak("NVIDIA H100 80GB HBM3") == 989e12
    assert computing.accelerator_peak("NVIDIA L40S") == 362e12
    assert computing.accelerator_peak("NVIDIA L4") == 121e12
    assert computing.accelerator_peak("TPU v5 lite") == 197e12
    assert computing.accelerator_peak("NVIDIA L400") is None


def test_a_slow_product_is_amiss(monkeypatch):
    monkeypatch.setattr(computing, "measured", lambda n, dtype: 1e9)
    monkeypatch.setattr(computing, "cpu_peak", lambda text: 1e11)
    (finding,) = computing.matrix_product()
    assert finding.value == "1 GFLOP/s, 1% of what such a device can do at most"
    assert finding.amiss.startswith("That is slow")
    monkeypatch.setattr(computing, "cpu_peak", lambda text: None)
    assert not next(computing.matrix_product()).amiss


def test_a_product_is_measured(monkeypatch):
    monkeypatch.setattr(computing, "SECONDS", 0.01)
    assert computing.measured(64, "float32") > 0


def test_data_that_nothing_has_is_amiss(nothing_here):
    mnist, fashion = data.image_sets()
    assert mnist.value == "not here"
    assert "runs use 5,000 of its images" in mnist.amiss
    assert "cannot connect to https://index/simple" in mnist.amiss
    assert "put its files in a folder and set MOEJAX_DATA_DIR" in fashion.amiss


def test_data_that_can_be_fetched_are_well(nothing_here, monkeypatch):
    monkeypatch.setattr(web, "probe", lambda url: None)
    assert [finding.amiss for finding in (*data.image_sets(), *data.text_pairs())] == [""] * 3


def test_a_damaged_file_of_the_cache_is_said(nothing_here, tmp_path):
    (tmp_path / "cache" / "mrpc").mkdir(parents=True)
    (tmp_path / "cache" / "mrpc" / "dev_ids.tsv").write_text("damaged")
    (pairs,) = data.text_pairs()
    assert "dev_ids.tsv" in pairs.value
    assert (tmp_path / "cache" / "mrpc" / "dev_ids.tsv").exists()  # an examination changes nothing


def test_a_folder_that_is_named_must_have_them(nothing_here, tmp_path, monkeypatch):
    monkeypatch.setenv("MOEJAX_DATA_DIR", str(tmp_path))
    (pairs,) = data.text_pairs()
    assert "has no folder mrpc/" in pairs.amiss


def test_room_and_permissions(tmp_path, monkeypatch):
    monkeypatch.setenv("MOEJAX_CACHE_DIR", str(tmp_path / "not" / "yet"))
    assert [finding.amiss for finding in data.folders()] == ["", ""]
    monkeypatch.setattr(data, "_LEAST_ROOM", 10**18)
    assert all(finding.amiss.startswith("That is little room") for finding in data.folders())
    monkeypatch.setattr(data, "_writable", lambda folder: False)
    assert all(finding.amiss.startswith("Nothing can be written there") for finding in data.folders())


def test_the_verb_survives_what_it_examines(monkeypatch, capsys):
    def broken():
        yield Finding("one", "1")
        raise RuntimeError("no such backend")

    monkeypatch.setattr(doctor, "SECTIONS", {"all": (broken, lambda: iter([Finding("two", "2")]))})
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "all",
        "  ok  one               1",
        "  !!  broken",
        "      It cannot be examined: RuntimeError no such backend.",
        "  ok  two               2",
        "",
        "1 thing is amiss; see !! above.",
    ]


def test_the_verb_on_this_machine(nothing_here, monkeypatch, capsys):
    monkeypatch.setattr(computing, "SECONDS", 0.01)
    assert main(["doctor", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert {one["section"] for one in found} == set(doctor.SECTIONS)
    assert "It cannot be examined" not in json.dumps(found)
