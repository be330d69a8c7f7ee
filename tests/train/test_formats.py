"""Test the readers of agreement files: valid rows, and one error for each kind of bad one."""

import csv
import gzip

import pytest

from jaxflow.errors import InputError
from jaxflow.train.formats import Example, read_full, read_simple, read_subjects

COLUMNS = [
    *("sentence", "orig_sentence", "pos_sentence", "subj", "verb", "subj_pos", "has_rel"),
    *("has_nsubj", "verb_pos", "subj_index", "verb_index", "n_intervening", "last_intervening"),
    *("n_diff_intervening", "distance", "max_depth", "all_nouns", "nouns_up_to_verb"),
]


def full_rows(*changes):
    """Rows of the full layout, one for each dict of cells that differ from the first one."""
    row = dict.fromkeys(COLUMNS, "x") | {
        "sentence": "the keys to the cabinet are here",
        "verb_pos": "VBP",
        "subj_index": "2",
        "verb_index": "6",
        "n_diff_intervening": "1",
    }
    return [row | change for change in changes]


def write_full(path, rows, columns=COLUMNS):
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([row[name] for name in columns] for row in rows)
    return path


@pytest.mark.parametrize(("name", "attractors"), [("numpred.test", -1), ("numpred.test.4", 4)])
def test_simple_rows(tmp_path, name, attractors):
    path = tmp_path / name
    path.write_bytes(b"VBZ\tthe key\nVBP\tthe  caf\xc3\xa9s of NNP\xc2\xa0x \r\n")
    assert list(read_simple(path)) == [
        Example("the key", 0, attractors, -1),
        Example("the cafés of NNP\xa0x", 1, attractors, -1),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "numpred.val: expected at least one row"),
        (b"VBZ\tthe key\nVBP the keys\n", "line 2: expected a label, a tab .* no tab in 'VBP the"),
        (b"VBZ\tthe key\n\nVBZ\tthe key\n", "line 2: expected a label, a tab"),
        (b"VBZ\tthe key\nVBD\tthe key\n", "line 2: expected the label VBZ or VBP, .* 'VBD'"),
        (b"vbz\tthe key\n", "line 1: expected the label"),
        (b"VBZ\t\n", "line 1: the prefix before the verb is empty"),
        (b"VBZ\t  \n", "line 1: the prefix before the verb is empty"),
        (b"VBZ\tthe\tkey\n", "line 1: expected one tab"),
        (b"VBZ\tthe key\nVBZ\tthe k\xe9y\n", "line 2: expected UTF-8 text, but byte 10 .* 0xe9"),
    ],
)
def test_unusable_simple_file(tmp_path, content, message):
    path = tmp_path / "numpred.val"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        list(read_simple(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [read_simple, read_subjects, read_full])
def test_missing_file_or_folder(tmp_path, read):
    with pytest.raises(InputError, match=r"absent: cannot be read \(No such file"):
        list(read(tmp_path / "absent"))
    with pytest.raises(InputError, match="cannot be read"):
        list(read(tmp_path))


def test_subjects(tmp_path):
    path = tmp_path / "subjects.tsv"
    path.write_text("label\tprefix\tsubject_index\tn_attractors\nVBP\tthe keys to it\t1\t0\n")
    assert list(read_subjects(path)) == [Example("the keys to it", 1, 0, 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected at least one row"),
        ("label\tprefix\tsubject_index\tn_attractors\n", "expected at least one row"),
        ("label\tprefix\tn_attractors\tsubject_index\n", "line 1: expected the header"),
        ("label\tprefix\tsubject_index\tn_attractors\nVBZ\tthe key\t1\n", "line 2: .* found 3"),
        (
            "label\tprefix\tsubject_index\tn_attractors\nVBZ\tthe key\t2\t0\n",
            "line 2: expected a subject index from 0 to 1, .* found 2",
        ),
        (
            "label\tprefix\tsubject_index\tn_attractors\nVBZ\tthe key\t-1\t0\n",
            "line 2: expected a whole number in the column subject_index, but found '-1'",
        ),
    ],
)
def test_unusable_subjects(tmp_path, text, message):
    path = tmp_path / "subjects.tsv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        list(read_subjects(path))


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
@pytest.mark.parametrize("columns", [COLUMNS, COLUMNS[::-1]])
def test_full_rows_by_column_name(tmp_path, name, columns):
    quoted = {"sentence": 'the " key " is here', "verb_pos": "VBZ", "verb_index": "5"}
    quoted |= {"subj_index": "3", "n_diff_intervening": "0"}
    path = write_full(tmp_path / name, full_rows({}, quoted), columns)
    assert list(read_full(path)) == [
        Example("the keys to the cabinet", 1, 1, 1),
        Example('the " key "', 0, 0, 2),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verb_pos": "VB"}, "line 3: expected the label VBZ or VBP, but found 'VB'"),
        ({"verb_index": "8"}, "line 3: expected a verb_index from 1 to 7, .* found 8"),
        ({"verb_index": "0"}, "line 3: expected a verb_index from 1 to 7, .* found 0"),
        ({"verb_index": "1"}, "line 3: the prefix before the verb is empty"),
        ({"subj_index": "6"}, "line 3: expected a subject index from 1 to 5, .* found 6"),
        ({"subj_index": "0"}, "line 3: expected a subject index from 1 to 5, .* found 0"),
        ({"subj_index": "two"}, "line 3: expected a whole number in the column subj_index"),
        ({"n_diff_intervening": ""}, "line 3: expected a whole number in .* n_diff_intervening"),
    ],
)
def test_unusable_full_row(tmp_path, change, message):
    path = write_full(tmp_path / "a.tsv", full_rows({}, change))
    with pytest.raises(InputError, match=message):
        list(read_full(path))


def test_unusable_full_table(tmp_path):
    path = tmp_path / "a.tsv"
    for content, message in (
        (b"", "expected at least one row"),
        ("\t".join(COLUMNS).encode() + b"\n", "expected at least one row"),
        (b"sentence\tverb\nthe key\tis\n", "line 1: .* but verb_pos, subj_index, verb_index, n_d"),
        (b"VBZ\tthe key\n", "line 1: expected a header with the columns sentence, verb_pos"),
        ("\t".join(COLUMNS).encode() + b"\nthe key is\tVBZ\n", "line 2: expected 18 .* found 2"),
        ("\t".join(COLUMNS).encode() + b"\n\xff\n", "line 2: expected UTF-8 text"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            list(read_full(path))


def test_cell_that_runs_over_a_line_end(tmp_path):
    path = tmp_path / "a.tsv"
    write_full(path, full_rows({}, {"sentence": "the keys\nto the cabinet are here"}))
    with pytest.raises(InputError, match="line 4: a quoted cell"):
        list(read_full(path))


def test_damaged_gzip(tmp_path):
    whole = write_full(tmp_path / "a.tsv.gz", full_rows(*[{}] * 500)).read_bytes()
    path = tmp_path / "b.tsv.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"b.tsv.gz: the gzip file is truncated or damaged"):
        list(read_full(path))
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(InputError, match=r"b.tsv.gz: the gzip file is truncated or damaged"):
        list(read_full(path))
