from amiwatch.judgement.trust import MAX_ACCOUNTS, MAX_PLACES, SAVE_PAUSE, Trust


def test_trust_lasts_for_its_time_and_not_longer() -> None:
    trust = Trust(trust_time=100, max_sources=10)
    assert trust.grant(1, "1001", 0)
    assert trust.has(1, 99.9)
    assert not trust.has(1, 100)
    assert len(trust) == 0


def test_a_login_in_time_prolongs_it_and_is_no_news() -> None:
    trust = Trust(trust_time=100, max_sources=10)
    assert trust.grant(1, "1001", 0)
    assert not trust.grant(1, "1001", 60)
    assert trust.covers(1, "1001", 159)
    assert trust.grant(1, "1001", 161)


def test_it_covers_the_very_account_and_the_very_source() -> None:
    trust = Trust(trust_time=100, max_sources=10)
    trust.grant(1, "1001", 0)
    assert trust.covers(1, "1001", 1)
    assert not trust.covers(1, "1002", 1)
    assert not trust.covers(2, "1001", 1)
    assert not trust.has(2, 1)


def test_one_phone_that_is_still_there_keeps_the_source_trusted_but_not_the_one_that_left() -> None:
    trust = Trust(trust_time=100, max_sources=10)
    trust.grant(1, "left", 0)
    trust.grant(1, "there", 60)
    assert trust.has(1, 120)
    assert trust.accounts(1, 120) == ["there"]
    assert not trust.covers(1, "left", 120)


def test_sources_and_accounts_are_bounded_and_the_longest_quiet_go_first() -> None:
    trust = Trust(trust_time=1e9, max_sources=10)
    for source in range(30):
        trust.grant(source, "1001", source)
    assert len(trust) == 10
    assert trust.has(29, 30)
    assert not trust.has(0, 30)
    for account in range(2 * MAX_ACCOUNTS):
        trust.grant(29, str(account), 100 + account)
    assert len(trust.accounts(29, 1000)) == MAX_ACCOUNTS
    assert len(list(trust.items())) == 9 + MAX_ACCOUNTS


def test_what_is_to_be_stored_is_told_once_in_a_while() -> None:
    trust = Trust(trust_time=1e9, max_sources=3)
    for at in (SAVE_PAUSE, SAVE_PAUSE + 10, SAVE_PAUSE + 20):
        trust.grant(1, "1001", at)
    assert trust.unsaved() == [(1, "1001", SAVE_PAUSE)]
    trust.grant(1, "1001", 2 * SAVE_PAUSE - 1)
    assert trust.unsaved() == []
    trust.grant(1, "1001", 2 * SAVE_PAUSE + 20)
    trust.grant(1, "1002", 2 * SAVE_PAUSE + 21)
    assert trust.unsaved() == [(1, "1001", 2 * SAVE_PAUSE + 20), (1, "1002", 2 * SAVE_PAUSE + 21)]


def test_an_account_with_many_places_pushes_out_its_own_and_nobody_else() -> None:
    trust = Trust(trust_time=1e9, max_sources=1000)
    for number in range(500):
        trust.grant(number, str(number), number)
    for number in range(50_000):
        trust.grant(~number, "intruder", 1000 + number)
        if number % 100 == 0:
            trust.grant(~0, "intruder", 1000 + number)
    assert all(trust.covers(number, str(number), 60_000) for number in range(500))
    assert 3 * MAX_PLACES / 4 <= len(trust) - 500 <= MAX_PLACES
    assert trust.covers(~49_999, "intruder", 60_000)
    assert trust.covers(~0, "intruder", 60_000)  # it was there all the time
    assert trust.home("intruder", 60_000) == ~49_999
    assert len(trust.unsaved()) <= 500 + MAX_PLACES


def test_a_place_of_several_accounts_keeps_the_trust_that_others_earned() -> None:
    trust = Trust(trust_time=1e9, max_sources=1000)
    for account in ("1001", "intruder"):
        trust.grant(7, account, 0)
    for number in range(1, 2 * MAX_PLACES):
        trust.grant(~number, "intruder", number)
    assert trust.accounts(7, 1000) == ["1001"]


def test_what_is_learned_out_of_order_makes_nobody_move() -> None:
    trust = Trust(trust_time=1e9, max_sources=10)
    trust.grant(1, "1001", 50)
    trust.grant(2, "1001", 20)
    assert trust.home("1001", 60) == 1
    trust.grant(2, "1001", 60)
    assert trust.home("1001", 60) == 1  # nothing new there
    trust.grant(3, "1001", 70)
    assert trust.home("1001", 70) == 3
