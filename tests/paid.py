"""Rollouts outside a step, on the bill as those of a step are."""


def paid(environment, request):
    outcomes = environment.generate(request)
    environment.ledger.record(outcomes)
    return outcomes
