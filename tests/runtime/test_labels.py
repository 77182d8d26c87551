"""labels.txt brings every name back, whatever is in it."""

from hypothesis import given
from hypothesis import strategies as some

from phiscale.runtime.labels import dump_labels, load_labels


@given(some.lists(some.text(some.characters(exclude_categories=()))))
def test_labels_come_back_and_the_file_is_utf8(labels: list[str]) -> None:
    text = dump_labels(labels)
    assert load_labels(text.encode().decode()) == tuple(labels)
    assert text.count("\n") == len(labels)


def test_ordinary_names_are_plain_lines() -> None:
    assert dump_labels(["golden retriever", "Käfer", "蟻"]) == "golden retriever\nKäfer\n蟻\n"
