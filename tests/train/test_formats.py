"""Test the readers of corpus files: valid rows, and one error for each kind of bad one."""

import gzip

import pytest
from session import refused

from jaxflow.train.formats import (
    Example,
    Labelled,
    read_full,
    read_labelled,
    read_simple,
    read_subjects,
)

SUBJECTS = "label\tprefix\tsubject_index\tn_attractors\n"
COLUMNS = [
    *("sentence", "orig_sentence", "pos_sentence", "subj", "verb", "subj_pos", "has_rel"),
    *("has_nsubj", "verb_pos", "subj_index", "verb_index", "n_intervening", "last_intervening"),
    *("n_diff_intervening", "distance", "max_depth", "all_nouns", "nouns_up_to_verb"),
]
CELLS = {
    "sentence": "the keys to the cabinet are here",
    "verb_pos": "VBP",
    "subj_index": "2",
    "verb_index": "6",
    "n_diff_intervening": "1",
}


def full(*changes, columns=COLUMNS):
    """The text of a full table, a row for each dict of cells that differ from `CELLS`."""
    rows = [{name: CELLS.get(name, "x") for name in columns} | change for change in changes]
    return "\n".join("\t".join(cells) for cells in [columns, *(row.values() for row in rows)])


@pytest.mark.parametrize(("name", "attractors"), [("numpred.test", -1), ("numpred.test.4", 4)])
def test_simple_rows(tmp_path, name, attractors):
    path = tmp_path / name
    path.write_bytes(b"VBZ\tthe key\nVBP\tthe  caf\xc3\xa9s of NNP\xc2\xa0x \r\n")
    assert list(read_simple(path)) == [
        Example("the key", 0, attractors, -1),
        Example("the cafés of NNP\xa0x", 1, attractors, -1),
    ]


def test_rows_of_subjects_and_labels(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text(f"{SUBJECTS}VBP\tthe keys to it\t1\t0\n")
    assert list(read_subjects(path)) == [Example("the keys to it", 1, 0, 1)]
    path.write_text("good film \t1\nbad\t0\n")
    assert list(read_labelled(path)) == [Labelled("good film", 1), Labelled("bad", 0)]
    path.write_text("one\t-1\ntwo\t-1\n")
    assert list(read_labelled(path, hidden=True)) == [Labelled("one", -1), Labelled("two", -1)]
    path.write_text("one\t-1\ntwo\t1\n")
    with refused("line 2: the labels are all -1 .* this one is '1'"):
        list(read_labelled(path, hidden=True))


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
@pytest.mark.parametrize("columns", [COLUMNS, COLUMNS[::-1]])
def test_full_rows_by_column_name(tmp_path, name, columns):
    quoted = {"sentence": '"the "" key "" is here"', "verb_pos": "VBZ", "verb_index": "5"}
    quoted |= {"subj_index": "3", "n_diff_intervening": "0"}
    with (gzip.open if name.endswith("gz") else open)(tmp_path / name, "wt") as file:
        file.write(full({}, quoted, columns=columns))
    assert list(read_full(tmp_path / name)) == [
        Example("the keys to the cabinet", 1, 1, 1),
        Example('the " key "', 0, 0, 2),
    ]


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_simple, b"", "expected at least one row"),
        (read_simple, "VBZ\tthe key\nVBP the keys\n", "line 2: expected a label, .* in 'VBP the"),
        (read_simple, "VBZ\tthe key\n\nVBZ\tthe key\n", "line 2: expected a label, a tab"),
        (read_simple, "VBZ\tthe key\nVBD\tthe key\n", "line 2: expected the label .* 'VBD'"),
        (read_simple, "vbz\tthe key\n", "line 1: expected the label"),
        (read_simple, "VBZ\t  \n", "line 1: the prefix before the verb is empty"),
        (read_simple, "VBZ\tthe\tkey\n", "line 1: expected one tab"),
        (read_simple, b"VBZ\ta key\nVBZ\ta k\xe9y\n", "line 2: .* UTF-8 .* byte 8 .* 0xe9"),
        (read_subjects, b"", "expected at least one row"),
        (read_subjects, SUBJECTS, "expected at least one row"),
        (read_subjects, "label\tprefix\n", "line 1: expected the header"),
        (read_subjects, f"{SUBJECTS}VBZ\tthe key\t1\n", "line 2: .* found 3"),
        (read_subjects, f"{SUBJECTS}VBZ\ta key\t2\t0", "line 2: .* from 0 to 1, .* found 2"),
        (read_subjects, f"{SUBJECTS}VBZ\ta key\t-1\t0", "line 2: .* subject_index, .* '-1'"),
        (read_labelled, b"", "expected at least one row"),
        (read_labelled, "good\t1\nno tab\n", "line 2: .* there is no tab in 'no tab'"),
        (read_labelled, "good\t1\ntwo\ttabs\t1\n", "line 2: expected one tab"),
        (read_labelled, "good\t1\n \t1\n", "line 2: the sentence is empty"),
        (read_labelled, "good\t1\nbad\t2\n", "line 2: expected the label 0 .* found '2'"),
        (read_labelled, "bad\t-1\n", "line 1: expected the label 0 .* found '-1'"),
        (read_labelled, "good\t 1\n", "line 1: expected the label 0"),
        (read_labelled, "sentence\tlabel\n", "line 1: expected the label 0"),
        (read_full, b"", "expected at least one row"),
        (read_full, full() + "\n", "expected at least one row"),
        (read_full, "sentence\tverb\nx\tis\n", "line 1: .* but verb_pos, subj_index, verb_index"),
        (read_full, "VBZ\tthe key\n", "line 1: expected a header with the columns sentence, verb"),
        (read_full, f"{full()}\nthe key is\tVBZ\n", "line 2: expected 18 .* found 2"),
        (read_full, full().encode() + b"\n\xff\n", "line 2: expected UTF-8 text"),
        (read_full, full({}, {"verb_pos": "VB"}), "line 3: expected the label .* found 'VB'"),
        (read_full, full({}, {"verb_index": "8"}), "line 3: .* from 1 to 7, .* found 8"),
        (read_full, full({}, {"verb_index": "0"}), "line 3: .* verb_index from 1 to 7"),
        (read_full, full({}, {"verb_index": "1"}), "line 3: the prefix before the verb is empty"),
        (read_full, full({}, {"subj_index": "6"}), "line 3: .* from 1 to 5, .* found 6"),
        (read_full, full({}, {"subj_index": "0"}), "line 3: expected a subject index from 1"),
        (read_full, full({}, {"subj_index": "two"}), "line 3: .* number in the column subj_index"),
        (read_full, full({}, {"n_diff_intervening": ""}), "line 3: .* n_diff_intervening"),
        (read_full, full({"sentence": '"the\nkeys are"'}), "line 3: a quoted cell"),
    ],
)
def test_unusable_rows_name_file_and_line(tmp_path, read, content, message):
    path = tmp_path / "rows.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with refused(f"rows.tsv.*{message}"):
        list(read(path))
    for missing in (tmp_path, tmp_path / "absent"):
        with refused("cannot be read"):
            list(read(missing))


def test_damaged_gzip(tmp_path):
    path = tmp_path / "b.tsv.gz"
    whole = gzip.compress(full(*[{}] * 500).encode())
    for content in (whole[: len(whole) // 2], b"<html>not found</html>"):
        path.write_bytes(content)
        with refused(r"b.tsv.gz: the gzip file is truncated or damaged"):
            list(read_full(path))
