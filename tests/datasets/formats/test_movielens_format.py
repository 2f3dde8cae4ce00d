"""Every layout of MovieLens gives the same interactions, sorted as plain Python sorts them."""

from __future__ import annotations

import random
import time

import pytest
from small_files import rows, write

from lightning_normdyn.datasets import MalformedFileError
from lightning_normdyn.datasets.formats import read_movielens

RATINGS = [("7", "30", 4.0, 50), ("3", "10", 2.5, 90), ("7", "10", 5.0, 20), ("3", "30", 1.0, 90), ("3", "20", 3.0, 10)]
TITLES = {"10": "Amélie, le film", "20": "Heat (1995)", "30": 'The "Best"', "40": "Not rated"}


def quoted(title):
    return '"' + title.replace('"', '""') + '"'


LAYOUTS = {
    "u.data": (rows(*RATINGS), "u.item", rows(*((*pair, "", 1) for pair in TITLES.items()), by="|").encode("latin-1")),
    "ratings.dat": (
        rows(*RATINGS, by="::"),
        "movies.dat",
        rows(*((*pair, "Drama") for pair in TITLES.items()), by="::").encode("latin-1"),
    ),
    "ratings.csv": (
        "userId,movieId,rating,timestamp\r\n" + rows(*RATINGS, by=",").replace("\n", "\r\n"),
        "movies.csv",
        "movieId,title,genres\n" + "".join(f"{id},{quoted(title)},Drama\n" for id, title in TITLES.items()),
    ),
    "ratings.tsv.gz": (
        "timestamp\tuser\titem\trating\n" + rows(*((t, u, i, r) for u, i, r, t in RATINGS)),
        "movies.tsv.gz",
        "item\ttitle\n" + rows(*TITLES.items()),
    ),
}


def named(found):
    return [
        (found.user_ids[user], found.item_ids[item], rating, time)
        for user, item, rating, time in zip(
            *(column.tolist() for column in (found.users, found.items, found.ratings, found.times)), strict=True
        )
    ]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same(tmp_path, name):
    content, titles, said = LAYOUTS[name]
    write(tmp_path / name, content)
    assert read_movielens(tmp_path).item_texts == ()
    write(tmp_path / titles, said)
    found = read_movielens(tmp_path)
    assert (found.user_ids, found.item_ids) == (["7", "3"], ["30", "10", "20"])
    assert named(found) == sorted(RATINGS, key=lambda row: (found.user_ids.index(row[0]), row[3]))
    assert found.item_texts == [TITLES[id] for id in found.item_ids]


def test_many_ratings_are_sorted_as_python_sorts_them(tmp_path):
    chance = random.Random(0)
    table = [(f"u{chance.randrange(20)}", f"i{n}", chance.randrange(1, 6), chance.randrange(30)) for n in range(900)]
    write(tmp_path / "u.data", rows(*table))
    first = list(dict.fromkeys(user for user, *_ in table))
    assert named(read_movielens(tmp_path)) == sorted(table, key=lambda row: (first.index(row[0]), row[3]))


def test_ratings_and_times_may_be_missing(tmp_path):
    write(tmp_path / "ratings.tsv", "user\titem\n" + rows(("b", "x"), ("a", "y"), ("b", "z")))
    assert named(read_movielens(tmp_path)) == [("b", "x", 1, 0), ("b", "z", 1, 2), ("a", "y", 1, 1)]
    write(tmp_path / "ratings.tsv", "user\titem\trating\n" + rows(("b", "x", "liked")))
    assert named(read_movielens(tmp_path, rating_column=False)) == [("b", "x", 1, 0)]


def test_repeated_interactions_and_items_without_title_are_counted(tmp_path):
    write(tmp_path / "u.data", rows(*RATINGS, ("3", "30", 2.0, 90), ("3", "30", 2.0, 91), ("7", "50", 1, 1)))
    write(tmp_path / "u.item", rows(*TITLES.items(), by="|").encode("latin-1"))
    said = (
        r"1 items without a title, kept .*\(first: item 50\); 1 repeated interactions, kept \(first: user 3, item 30\)"
    )
    with pytest.warns(UserWarning, match=said):
        assert len(read_movielens(tmp_path).users) == 8


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"u.data": "1\t2\t3\t4\n1\t2\t3\n"}, r"u\.data, line 2: expected 4 columns, got 3"),
        ({"u.data": "1\t2\tgood\t4\n"}, r"u\.data, line 1: expected a number as a rating, got 'good'"),
        ({"u.data": "1\t2\t3\tinf\n"}, r"line 1: expected a number as a timestamp, got 'inf'"),
        ({"u.data": "\t2\t3\t4\n"}, r"line 1: expected a user and an item, got an empty cell"),
        ({"u.data": ""}, r"u\.data: expected ratings, got none"),
        ({"ratings.csv": ""}, r"ratings\.csv, line 1: expected a row that names the columns, got an empty file"),
        ({"ratings.csv": "1,2,good,4\n"}, r"ratings\.csv, line 1: expected a column 'user'"),
        ({"a.csv": "who,item\n1,2\n"}, r"a\.csv, line 1: expected a column 'user', got the columns \['who', 'item'\]"),
        ({"a.inter": "user_id:token\tx:float\n1\t2\n"}, r"a\.inter, line 1: expected a column 'item'"),
        ({"a.txt": "1 2 3 4 5\n"}, r"a\.txt, line 1: expected a user and an item on each line.*got 5 columns"),
        ({"a.txt": "1 2\n1\n"}, r"a\.txt, line 2: expected 2 columns, got 1"),
        (
            {"u.data": "1\t2\t3\t21 March\n"},
            r"a number as a timestamp, got '21 March'; write seconds, or dates as 2014",
        ),
        ({"a.txt": "1 2\n", "b.txt": "1 2\n"}, r"expected one file of .*, got a\.txt and b\.txt"),
        ({"u.data": "1\t2\t3\t4\n", "u.item": "2|a\n2|b\n"}, r"u\.item, line 2: .* got '2' again"),
        ({"u.data": "1\t2\t3\t4\n", "u.item": "2|a\n3\n"}, r"u\.item, line 2: expected 2 columns, got 1"),
        ({"u.data": "1\t2\t3\t4\n", "ratings.csv": ""}, r"expected one file of .*, got u\.data and ratings\.csv"),
        ({"other.txt": ""}, r"expected one file of u\.data, ratings\.dat, ratings\.csv, ratings\.tsv, .*, got none"),
    ],
)
def test_malformed_files_are_refused(tmp_path, files, message):
    for name, content in files.items():
        write(tmp_path / name, content)
    with pytest.raises(MalformedFileError, match=message):
        read_movielens(tmp_path)


DAY = 86400
OTHERS = {
    "ratings.dat": rows(*RATINGS),
    "ml.inter": rows(("user_id:token", "item_id:token", "rating:float", "timestamp:float"), *RATINGS),
    "ratings_Beauty.csv": rows(*RATINGS, by=","),
    "beauty.csv.gz": "asin,reviewerID,overall,unixReviewTime\n"
    + rows(*((i, u, r, t) for u, i, r, t in RATINGS), by=","),
    "four.txt": rows(*RATINGS, by=" "),
}


@pytest.mark.parametrize("name", OTHERS)
def test_layouts_of_other_owners_give_the_same(tmp_path, name):
    write(tmp_path / name, OTHERS[name])
    found = read_movielens(tmp_path)
    assert named(found) == sorted(RATINGS, key=lambda row: (found.user_ids.index(row[0]), row[3]))


def test_pairs_of_a_user_and_an_item_are_in_the_order_of_time(tmp_path):
    write(tmp_path / "Beauty.txt", "2 9\n1 8\n2 7\n")
    assert named(read_movielens(tmp_path)) == [("2", "9", 1, 0), ("2", "7", 1, 2), ("1", "8", 1, 1)]


def test_amazons_users_and_items_are_told_apart(tmp_path):
    pairs = [("A2SUAM1J3GNN3B", "0000013714"), ("A1YJEY40YUW4SE", "B00005N7P0")]
    for order in (1, -1):
        write(tmp_path / "ratings.csv", rows(*((*pair[::order], 5.0, 1393545600) for pair in pairs), by=","))
        found = read_movielens(tmp_path)
        assert [(user, item) for user, item, *_ in named(found)] == pairs


@pytest.fixture
def far_east(monkeypatch):
    """A machine nine hours ahead of UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_east")
@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("1970-01-03", 2),
        ("1970-01-03 12:00:00", 2.5),
        ("1970-01-03T12:00:00Z", 2.5),
        ("1970-01-03T12:00:00+12:00", 2),
        ("01 03, 1970", 2),
        ("1970/01/03", 2),
    ],
)
def test_times_may_be_dates(tmp_path, text, days):
    """In UTC where they name no zone, wherever the machine stands."""
    write(tmp_path / "ratings.tsv", f"user\titem\ttimestamp\nu\ti\t{text}\n")
    assert named(read_movielens(tmp_path)) == [("u", "i", 1, days * DAY)]
