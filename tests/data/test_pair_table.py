"""Tables of sentence pairs: quotation marks mean nothing, and whatever is wrong is one sentence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moejax.data import pair_table
from moejax.data.pair_table import Pair
from moejax.errors import UserError

HEADER = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
ROWS = '1\t10\t11\tHe said " no .\t" No , " he said .\n0\t12\t13\t " Stop \tGo \x85 on .\n'
PAIRS = [Pair(("10", "11"), 'He said " no .', '" No , " he said .', 1), Pair(("12", "13"), '" Stop', "Go \x85 on .", 0)]


def test_unbalanced_quotation_marks_lose_no_row():
    assert pair_table.decode(2, False, (HEADER + ROWS).encode(), "x") == PAIRS


def test_the_byte_order_mark_of_an_original_is_passed_over():
    assert pair_table.decode(2, True, ("\ufeff" + HEADER + ROWS).encode(), "x") == PAIRS
    with pytest.raises(UserError, match=r"^x does not begin with the columns Quality, #1 ID"):
        pair_table.decode(2, False, ("\ufeff" + HEADER + ROWS).encode(), "x")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "x does not begin with the columns Quality, #1 ID, #2 ID, #1 String, #2 String: download it again."),
        ((HEADER + ROWS[:-5]).encode(), None),  # cut short within the last sentence: the checksum's business
        ((HEADER + ROWS[:20]).encode(), "x has 4 fields in line 2, beginning with '1', expected 5"),
        ((HEADER + ROWS + ROWS).encode(), "x has 4 pairs, expected 2: download it again."),
        (
            (HEADER + ROWS.replace("0\t", "2\t")).encode(),
            "x has 5 fields in line 2, beginning with '1'|beginning with '2'",
        ),
        (
            "index" + HEADER[7:] + ROWS,
            "x is GLUE's test file without labels: put the published msr_paraphrase_test.txt",
        ),
        ((HEADER + ROWS).encode("utf-8") + b"\xff", "x is not UTF-8 text (byte "),
        ((HEADER + "\n" + ROWS).encode(), "x has 1 fields in line 2, beginning with '', expected 5"),
        ((HEADER + ROWS + "\n").encode(), "x has 1 fields in line 4, beginning with '', expected 5"),
        (b"\n", "x does not begin with the columns Quality, #1 ID, #2 ID, #1 String, #2 String: download it again."),
        (("\r" + HEADER + ROWS).encode(), "x does not begin with the columns Quality"),
    ],
)
def test_what_is_wrong_is_one_sentence(content, sentence):
    content = content if isinstance(content, bytes) else content.encode()
    if sentence is None:
        assert len(pair_table.decode(2, False, content, "x")) == 2
        return
    with pytest.raises(UserError) as error:
        pair_table.decode(2, False, content, "x")
    assert any(part in str(error.value) for part in sentence.split("|"))


def test_dev_is_what_its_ids_list_in_the_order_of_the_table():
    ids = pair_table.decode_ids(1, b"12\t13\n", "x")
    assert pair_table.split(PAIRS, ids) == ([PAIRS[0]], [PAIRS[1]])
    with pytest.raises(UserError, match=r"^x has 3 fields in line 1, expected 2 ids"):
        pair_table.decode_ids(1, b"1\t2\t3\n", "x")
    with pytest.raises(UserError, match=r"^x has 1 pairs of ids, expected 2"):
        pair_table.decode_ids(2, b"1\t2\n", "x")


def test_rows_become_arrays():
    arrays = pair_table.examples(PAIRS)
    assert arrays["first"].tolist() == ['He said " no .', '" Stop']
    np.testing.assert_array_equal(arrays["label"], np.array([1, 0], np.int32))
    assert arrays["label"].dtype == np.int32


def test_a_lone_carriage_return_and_a_long_sentence_are_text():
    long = "word " * 30_000
    rows = f"1\t1\t2\tOne\rtwo .\t{long}\r\n"
    assert pair_table.decode(1, False, (HEADER + rows).encode(), "x") == [
        Pair(("1", "2"), "One\rtwo .", long.strip(), 1)
    ]


@given(st.text('\t\n\r\0"01a\ufeff').map(str.encode) | st.binary(max_size=40))
def test_any_bytes_are_tables_or_one_sentence(rows):
    sentences = []
    for decode in (
        lambda: pair_table.decode(1, True, HEADER.encode() + rows, "x"),
        lambda: pair_table.decode(1, False, rows, "x"),
        lambda: pair_table.decode_ids(1, rows, "x"),
    ):
        try:
            assert len(decode()) == 1
        except UserError as error:
            sentences.append(str(error))
    assert all(sentence.startswith("x ") for sentence in sentences)


@pytest.mark.parametrize(
    ("first", "label", "problem"),
    [
        (["a", None], [0, 1], "its sentences have None among them, expected text"),
        (["a", "b"], [0.5, 1.0], "its labels are of type float64, expected whole numbers of 32 bits"),
        (["a", "b"], ["0", "1"], "its labels are of type <U1, expected whole numbers"),
        (["a", "b"], [2**32 + 1, 1], "its labels are of type int64, expected whole numbers of 32 bits"),
    ],
)
def test_columns_of_something_else_are_refused(first, label, problem):
    with pytest.raises(ValueError, match=problem):
        pair_table.of_columns(first, ["c", "d"], label)
