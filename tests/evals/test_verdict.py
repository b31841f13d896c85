"""The verdict says what the numbers say, above all when they are against us."""

from __future__ import annotations

from types import SimpleNamespace

from saesteer.evals.verdict import verdict


def said(make: SimpleNamespace, **changes: object) -> str:
    """The verdict on made results, as one text."""
    return " ".join(verdict(make.results(**changes), "sentiment"))  # pyright: ignore[reportArgumentType]


def test_a_feature_that_beats_random_is_said_to(make: SimpleNamespace) -> None:
    text = said(make)
    assert "Feature raised the score by 0.40 (95 % interval +0.30 to +0.50; VADER compound)" in text
    assert "At equal KL, feature and CAA move the score more than random directions do." in text
    assert "For prompting random directions never reached the same KL" in text
    assert "Feature and CAA can't be told apart at equal KL." in text


def test_nothing_beats_random(make: SimpleNamespace) -> None:
    results = make.results()
    results["equal_kl"] = [make.equal(m, "random direction", 0.05) for m in ("feature", "CAA")]
    text = " ".join(verdict(results, "sentiment"))
    assert "Nothing beats a random direction at equal KL" in text
    assert "more than random directions do" not in text


def test_worse_than_random(make: SimpleNamespace) -> None:
    assert "Feature does worse than they do." in said(make, feature_over_random=-0.3)


def test_dense_vectors_win(make: SimpleNamespace) -> None:
    text = said(make, feature_over_caa=-0.3)
    assert "Dense vectors win: CAA moves the score further than feature at equal KL." in text


def test_the_feature_wins(make: SimpleNamespace) -> None:
    text = said(make, feature_over_caa=0.3)
    assert "Feature moves it further than CAA at equal KL." in text
    assert "Dense vectors win" not in text


def test_without_a_random_direction_nothing_is_claimed(make: SimpleNamespace) -> None:
    results = make.results()
    results["equal_kl"] = []
    assert "No random direction was run" in " ".join(verdict(results, "sentiment"))


def test_an_effect_that_is_none_or_backwards(make: SimpleNamespace) -> None:
    results = make.results()
    results["compare"][1] = make.row("feature", "feature", 0.05)
    assert "did not measurably move the score (+0.05)" in verdict(results, "sentiment")[0]
    results["compare"][1] = make.row("feature", "feature", -0.4)
    assert "lowered the score, the wrong way, by 0.40" in verdict(results, "sentiment")[0]


def test_repetition_is_named(make: SimpleNamespace) -> None:
    results = make.results()
    assert "repeats itself" not in " ".join(verdict(results, "sentiment"))
    results["compare"][1] = make.row("feature", "feature", 0.4, distinct_2=0.5)
    assert "repeats itself (distinct-2 0.80 to 0.50)" in " ".join(verdict(results, "sentiment"))
