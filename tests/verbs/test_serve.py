"""`moejax serve`: the answers are the model's, and whatever else is sent gets a sentence."""

import base64
import json
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from runs.test_model import IMAGE, RUNS, SPARSE, of_images, of_points
from serving import MNIST_LIKE, asked, dark, images, pairs, png, run, said, served  # noqa: F401
from small_run import saved_run

import moejax
from moejax.__main__ import main
from moejax.config import make_config
from moejax.errors import UserError
from moejax.serve import guard, listen, settings
from moejax.serve.app import MOST_BYTES
from moejax.serve.question import LONGEST
from moejax.serve.service import Service


def test_a_picture_and_its_pixels_have_the_models_answer(images):
    service, port = images
    prediction, (route,) = moejax.runs.Model.answer(service.variants(service.variants.own), dark())
    found = said(port, {"image": png(dark())})
    assert found["class"] == str(prediction.classes[0])
    top = {one["class"]: one["probability"] for one in found["top"]}
    np.testing.assert_allclose([top[str(y)] for y in range(4)], prediction.probabilities[0], atol=1e-6)
    (layer,) = found["layers"]
    np.testing.assert_allclose(layer["gates"], route.gates[0], atol=1e-6)
    assert layer["name"] == "layer 0"
    assert np.prod(layer["grid"]) == len(layer["gates"])
    assert found["image"] == dark().tolist()
    assert found["milliseconds"] > 0
    assert (found["k"], found["capacity_factor"]) == (2, None)
    again = said(port, {"image": dark().tolist()})
    assert again | {"milliseconds": 0} == found | {"milliseconds": 0}


def test_k_and_capacity_change_the_routing_and_nothing_else(images):
    service, port = images
    picture = png(dark())
    for k in (1, 3):
        (layer,) = said(port, {"image": picture, "k": k})["layers"]
        assert (np.count_nonzero(layer["gates"], axis=1) == k).all()
    (full,) = said(port, {"image": picture, "capacity_factor": 0.25})["layers"]
    tokens = len(full["gates"])
    most = np.ceil(0.25 * 2 * tokens / 4)
    assert np.count_nonzero(full["gates"], axis=0).max() == most
    config = service.variants.own
    assert said(port, {"image": picture})["k"] == config.k


@pytest.mark.slow
def test_only_so_many_settings_are_kept(run, monkeypatch):
    monkeypatch.setattr(settings, "MOST", 2)
    variants = settings.Variants(moejax.runs.load(run))
    own = variants(variants.own)
    for k in (1, 3, 4):
        variants(settings.Setting(k, None))
        assert len(variants._known) <= 2
    assert variants(variants.own) is own


def test_a_router_that_learnt_how_many_to_take_is_asked_for_no_other_k(tmp_path):
    config = make_config(name="relu", model=IMAGE, moe=dict(router="relu", **SPARSE))
    saved_run(tmp_path / "run", config, of_images(), {1: None})
    variants = settings.Variants(moejax.runs.load(tmp_path / "run"))
    assert list(variants.offered) == ["capacity_factor"]
    with pytest.raises(UserError, match="k is 1, but the router relu learnt how many to take; leave it out"):
        variants(variants.own._replace(k=1))


def test_what_the_run_is(images, pairs):
    _, port = images
    status, headers, content = asked(port, path="/api/run", method="GET")
    about = json.loads(content)
    assert status == 200
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert (
        about | {"run": "bars <1>", "reads": "image", "shape": [28, 28], "layer": "sparse", "num_experts": 4} == about
    )
    assert about["settings"]["k"] == {"value": 2, "values": [1, 2, 3, 4]}
    assert about["settings"]["capacity_factor"]["values"][-1] is None
    assert json.loads(asked(pairs[1], path="/api/run", method="GET")[2])["reads"] == "texts"


def test_two_sentences_have_the_models_answer(pairs):
    service, port = pairs
    prediction, _ = service._model.answer([("the cat sat", "a dog ran")])
    found = said(port, {"texts": ["the cat sat", "a dog ran"]})
    assert found["probability"] == pytest.approx(prediction.probabilities.max(), abs=1e-6)
    assert found["tokens"] == ["first sentence", "second sentence"]
    assert [layer["grid"] for layer in found["layers"]] == [None] * len(found["layers"])


@pytest.mark.slow
def test_other_layers_have_no_settings(tmp_path):
    saved_run(tmp_path / "run", make_config(name="dense", **RUNS["dense"][1]), of_images(), {1: None})
    service = Service(moejax.runs.load(tmp_path / "run"), "dense")
    assert service.about()["settings"] == {}
    with served(service) as port:
        status, _, content = asked(port, {"image": png(dark()), "k": 1})
        assert (status, json.loads(content)) == (
            400,
            {"error": "k is for sparse layers, which this run has not; leave it out."},
        )
        assert "k" not in said(port, {"image": png(dark())})


def test_points_can_not_be_served(tmp_path):
    saved_run(tmp_path / "run", make_config(name="points", **RUNS["points"][1]), of_points(), {1: None})
    with pytest.raises(UserError, match="reads patches; a page can ask for images, sentence pairs and text only"):
        Service(moejax.runs.load(tmp_path / "run"), "points")


NOISE = np.random.default_rng(0).integers(0, 255, (100, 100), dtype=np.uint8)
BAD = {
    "no JSON": (b"{", 400, "The body is no JSON"),
    "no UTF-8": (b'{"image": "\xff"}', 400, "The body is no JSON"),
    "nested": (b"[" * 500_000, 400, "The body is no JSON"),
    "NaN": (b'{"k": NaN}', 400, "NaN is no number of JSON"),
    "a list": ([1], 400, "The body is [1]; send an object"),
    "nothing": ({}, 400, "The question has no 'image'"),
    "unknown": ({"imgae": ""}, 400, "'imgae' is no part of a question; did you mean image?"),
    "texts": ({"texts": ["a", "b"]}, 400, "'texts' is no part of a question"),
    "a number": ({"image": 5}, 400, "image is 5; it must be a picture file in base64"),
    "no base64": ({"image": "ä" * 90}, 400, "which is not base64"),
    "empty": ({"image": ""}, 400, "The picture is empty"),
    "no picture": ({"image": base64.b64encode(b"%!PS\n").decode()}, 400, "cannot be read as a picture"),
    "cut off": ({"image": png(NOISE)[:4000]}, 400, "cannot be read as"),
    "huge": ({"image": png(np.zeros((3000, 3000), np.uint8))}, 400, "3,000 × 3,000 pixels, more than 4,194,304"),
    "blank": ({"image": png(np.zeros((99, 99), np.uint8))}, 400, "has nothing drawn on it"),
    "ragged": ({"image": [[1], [1, 2]]}, 400, "must be 28 × 28 whole numbers"),
    "out of range": ({"image": [[256] * 28] * 28}, 400, "must be 28 × 28 whole numbers"),
    "far out of range": ({"image": [[10**30] * 28] * 28}, 400, "must be 28 × 28 whole numbers"),
    "strings": ({"image": [["1"] * 28] * 28}, 400, "must be 28 × 28 whole numbers"),
    "empty list": ({"image": []}, 400, "must be 28 × 28 whole numbers"),
    "k text": ({"image": "", "k": "2"}, 400, "k is '2'; it must be a whole number"),
    "k true": ({"image": "", "k": True}, 400, "k is True; it must be a whole number"),
    "k 0": ({"image": "", "k": 0}, 400, "k is 0; it must be"),
    "k too large": ({"image": "", "k": 10**30}, 400, "k is 1"),
    "k beyond": ({"image": "", "k": 5}, 400, "k is 5"),
    "capacity": ({"image": "", "capacity_factor": -1}, 400, "capacity_factor is -1"),
    "capacity text": ({"image": "", "capacity_factor": []}, 400, "capacity_factor is []; it must be a number"),
    "capacity inf": (b'{"image": "", "capacity_factor": 1e999}', 400, "capacity_factor is"),
    "capacity far below": ({"image": "", "capacity_factor": -(10**400)}, 400, "capacity_factor is"),
    "capacity long": ({"image": "", "capacity_factor": 10**400}, 400, "capacity_factor is"),
    "too long": (b" " * (MOST_BYTES + 1), 413, "more than 1,048,576 bytes"),
    "far too long": (b" " * (3 * MOST_BYTES), 413, "more than 1,048,576 bytes"),
}


@pytest.mark.parametrize(("body", "status", "sentence"), BAD.values(), ids=BAD)
def test_a_question_that_makes_no_sense_gets_a_sentence(images, body, status, sentence):
    got, _, content = asked(images[1], body)
    assert got == status, content
    (problem,) = json.loads(content).values()
    assert sentence in problem
    assert len(problem) < 400
    assert "Traceback" not in problem


@pytest.mark.parametrize(
    ("texts", "status", "sentence"),
    [
        (["a"], 400, "texts is ['a']; it must be two sentences"),
        ("ab", 400, "texts is 'ab'; it must be two sentences"),
        (["a", 1], 400, "it must be two sentences"),
        (["a", " "], 400, "holds an empty sentence"),
        (["a", "\ud800"], 400, "a lone surrogate"),
        (["a", "b" * (LONGEST + 1)], 400, "A sentence has 2,001 characters; give 2,000 at most"),
        (["a" * 2**20, "b"], 413, "more than 1,048,576 bytes"),
    ],
)
def test_sentences_that_are_none_get_one(pairs, texts, status, sentence):
    got, _, content = asked(pairs[1], {"texts": texts})
    assert got == status, content
    assert sentence in json.loads(content)["error"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "sentence"),
    [
        ("GET", "/favicon.ico", {}, 404, "There is nothing at '/favicon.ico'"),
        ("GET", "/../../etc/passwd", {}, 404, "There is nothing at"),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", {}, 404, "There is nothing at"),
        ("GET", "//etc/passwd", {}, 404, "There is nothing at"),
        ("GET", "/page.js", {}, 404, "There is nothing at"),
        ("GET", "/api/run/", {}, 404, "There is nothing at"),
        ("GET", "/api/predict", {}, 405, "'/api/predict' does not take GET"),
        ("POST", "/", {}, 405, "'/' does not take POST"),
        ("POST", "/api/predict", {"Content_Type": "text/plain"}, 415, "Content-Type is 'text/plain'"),
        ("GET", "/", {"Host": "evil.example"}, 403, "Host is 'evil.example', which is no name of this server"),
        ("GET", "/api/run", {"Host": "127.0.0.1.evil.example:80"}, 403, "Host is"),
        ("GET", "/", {"Host": "[::1"}, 403, "Host is"),
        ("POST", "/api/predict", {"Origin": "http://evil.example"}, 403, "only this server's own page may ask"),
        ("POST", "/api/predict", {"Origin": "null"}, 403, "only this server's own page may ask"),
    ],
)
def test_what_is_not_served_gets_a_sentence(images, method, path, headers, status, sentence):
    got, _, content = asked(images[1], b"{}" if method == "POST" else None, path, method, **headers)
    assert got == status, content
    assert sentence in json.loads(content)["error"]


def test_hosts_by_hand():
    names = {"localhost", "desk"}
    for host in ("127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000", "192.168.1.2", "desk:80"):
        assert guard.refusal(host, f"http://{host}", names) is None
    for host in (None, "", "a.example", "127.0.0.1@a.example", "localhost/x", "a localhost", "localhost:8000:1.a"):
        assert "Host is" in (guard.refusal(host, None, names) or host)
    assert "Origin is" in guard.refusal("localhost:8000", "http://localhost:9000", names)


def memory():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_memory_stays_flat(images, count):
    _, port = images
    questions = [{"image": png(dark(n)), "k": 1 + n % 2} for n in range(10)]
    for question in questions * 5:
        said(port, question)
    before = memory()
    for n in range(count):
        said(port, questions[n % 10])
    assert memory() - before < 8e6


def test_ctrl_c_ends_it_with_a_sentence(run):
    command = [sys.executable, "-m", "moejax", "serve", str(run), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = process.stdout.readline()
    port = int(re.fullmatch(rf"{run} is at http://127\.0\.0\.1:(\d+)/ until Ctrl-C\n", first)[1])
    said(port, {"image": png(dark())})
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "stopped; 1 question had an answer.\n", "")


def test_words_that_make_no_sense_are_a_sentence(run, capsys, monkeypatch):
    with listen.listening("127.0.0.1", 0) as sock:
        taken = sock.getsockname()[1]
        for words, sentence in (
            ([run, "--port", taken], f"--host 127.0.0.1 --port {taken} cannot be served (Address already in use"),
            ([run, "--port", 99999], "--port is 99999; it is from 1 to 65,535"),
            ([run, "--port", 0, "--host", "no such host"], "--host no such host --port 0 cannot be served ("),
            ([run, "--port", 0, "--host", ""], "--host is '', which would be every address of this machine"),
            ([run.parent, "--port", 0], "is not a run folder"),
            ([run, "--port", 0, "--checkpoint", "newest"], "checkpoint is 'newest', but"),
        ):
            assert main(["serve", *map(str, words)]) == 2
            assert sentence in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["serve", str(run)]) == 2
    assert "pip install 'moejax[serve]'" in capsys.readouterr().err
