"""`unplateau benchmark`: an option of the one benchmark is refused by the other."""


def test_an_option_of_the_other_benchmark_is_refused(run) -> None:
    ended = run("benchmark", "observation", "--seeds", 3)
    assert ended.code == 2
    assert ended.err == "unplateau: --seeds has no meaning for unplateau benchmark observation; leave it out\n"


def test_blocks_are_of_the_observation_only(run) -> None:
    ended = run("benchmark", "faults", "--blocks", 7)
    assert ended.err == "unplateau: --blocks has no meaning for unplateau benchmark faults; leave it out\n"
