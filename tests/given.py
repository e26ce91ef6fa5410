"""Tables that are handed to figures and claims in place of studies on the disk."""

from paper_figures.sources import Sources


class Given(Sources):
    """Tables by name, the same for every study; `steps` of each scenario."""

    def __init__(self, steps=None, **tables):
        super().__init__()
        self.tables, self.steps_given = tables, steps

    def table(self, study, name, columns=(), **only):
        found = self.tables[name]
        for key, values in only.items():
            found = found[found[key].isin(list(values))]
        return found.reset_index(drop=True)

    def steps(self, study):
        return self.steps_given
