"""The cost model of scaling: worked by hand, and its FLOPs beside those that the compiler counts."""

import dataclasses

import pytest
from test_crossing import GROUPS, D, H, T, compiled, sizes

from benchmarks.suite.scaling import (
    COARSE,
    FINE,
    H100,
    V5P,
    Model,
    Nodes,
    Torus,
    best_degrees,
    degrees,
    flops,
    predict,
    run,
)


@pytest.mark.parametrize(("data", "expert"), [(1, 2), (2, 2), (1, 4), (2, 4), (1, 8)])
def test_flops_of_a_device_are_those_of_the_compiled_program(data, expert):
    counted = compiled("gather", data, expert).cost_analysis()["flops"]
    size = sizes("gather")
    assert counted == pytest.approx(flops(size["slots"] / D, 2 * D * H, GROUPS * T, size["rest"]), rel=0.05)


def test_an_exchange_inside_a_node_and_one_across_nodes():
    nodes = Nodes(node=4, inside=100.0, outside=10.0, latency=0.5)
    # 3/4 of 80 bytes leave a device, at 100 a second, in 3 messages
    assert nodes.exchange(80, 4) == pytest.approx(0.6 + 1.5)
    # of 16 parts, 3 stay in the node and 12 leave it: 60 of 80 bytes at 10 a second, in 15 messages
    assert nodes.exchange(80, 16) == pytest.approx(6 + 7.5)
    assert nodes.exchange(80, 1) == 0


def test_an_average_over_nodes_leaves_each_node_once():
    nodes = Nodes(node=4, inside=100.0, outside=10.0, latency=0.0)
    # ring inside: twice 3/4 of 80 bytes; then a quarter of them, twice 1/2, between two nodes
    assert nodes.average(80, 8, stride=1) == pytest.approx(2 * 60 / 100 + 2 * 20 / 2 / 10)
    # every fourth device: one in a node
    assert nodes.average(80, 8, stride=4) == pytest.approx(2 * 80 * 7 / 8 / 10)
    assert nodes.average(80, 1, stride=1) == 0


def test_an_exchange_on_a_torus_takes_twice_as_long_for_twice_the_side():
    torus = Torus(link=10.0, latency=0.0)
    # a cube of 8: 4 devices send half of 80 bytes over 4 links
    assert torus.exchange(80, 8) == pytest.approx(4)
    assert torus.exchange(80, 64) == pytest.approx(8)
    assert torus.exchange(80, 1) == torus.average(80, 1, stride=1) == 0


def test_a_step_worked_by_hand():
    model = Model("", layers=1, d=2, h=4, experts=2, k=1, factor=1.0)
    assert (model.of_experts, model.rest) == (32, 20)
    network = Nodes(node=2, inside=8.0, outside=1.0, latency=0.0)
    machine = dataclasses.replace(H100, flops=100.0, bandwidth=1e9, memory=1e3, network=network, reached=0.5, hidden=0)
    parts = predict(model, machine, data=2, expert=2, tokens=10)
    assert parts["compute"] == pytest.approx(6 * (10 * 16 + 10 * 20) / 50)
    # four all-to-alls of 20 numbers of 2 bytes; half of them stay
    assert parts["exchange"] == pytest.approx(4 * 20 / 8)
    # 16 numbers of 4 bytes between nodes; 20 over all four devices, two of a node
    assert parts["average"] == pytest.approx(64 / 1 + 80 / 8 + 40 / 1)
    assert parts["fits"]
    assert not predict(model, dataclasses.replace(machine, memory=16 * 35), 2, 2, 10)["fits"]


def test_few_tokens_wait_for_the_memory():
    machine = dataclasses.replace(H100, bandwidth=1e9)
    few, fewer = (predict(FINE, machine, 1, 8, tokens)["compute"] for tokens in (2, 1))
    assert few == fewer == 6 * (FINE.of_experts / 8 + FINE.rest) / 1e9


def test_gradients_hide_behind_the_backward_pass():
    shown = [predict(FINE, dataclasses.replace(H100, hidden=hidden), 64, 8, 8192) for hidden in (0, 0.5, 1)]
    averages = [parts["average"] for parts in shown]
    assert averages[0] - averages[1] == pytest.approx(shown[0]["compute"] / 3)
    assert averages[0] > averages[1] > averages[2] >= 0


def test_degrees_divide_experts_and_devices():
    assert degrees(FINE, 8) == [1, 2, 4, 8]
    assert degrees(COARSE, 4096) == [1, 2, 4, 8]


@pytest.mark.parametrize("machine", [H100, V5P], ids=lambda machine: machine.name)
def test_rows_are_efficiencies_and_the_best_fits(machine):
    rows = [row for row in run(quick=False) if row["machine"] == machine.name]
    assert {row["devices"] for row in rows} == {2**n for n in range(3, 13)}
    assert all(0 < row["efficiency"] <= 1 for row in rows)
    best = best_degrees([row for row in rows if row["model"] == FINE.name and row["way"] == "weak"])
    assert all(row["fits"] and row["expert"] > 1 for row in best.values())
