"""prbench: the benchmark suite for personalised reward models.

Data flow one way, through the rooms of this package:

    raw files -> loaders -> data -> encoders, embedding -> protocol (splits) -> methods (fit, adapt, score)
        -> results (cells) -> reporting (tables, figures, page)

The rooms, from bottom to top; a module imports from its own room and from those above it in this list:

    base         errors, files, console, random streams; imports nothing of prbench
    comparisons, method, hyperparameters    what a method of your own imports
    registry     entries: their schema, files, targets; methods made from them
    protocol     the rules of the benchmark: splits, selection, metrics, statistics
    loaders      one raw source each
    data         downloads, the cache and the description of data sets
    encoders     one family of models each
    judging      judge models: what answers questions about texts, its answers on disk, budget and prompts
    embedding    texts to vectors, stored on disk
    training     base classes that train all splits together
    methods      one algorithm each
    results      everything on disk: cells, scores, probes
    contract     what `prbench check` promises of every method
    sharing      what travels: splits as files, packed and merged results
    running      plan, run, tune, probe
    policy       a language model's log-probabilities, and policies of one person's own
    reporting    tables, figures, pages: a function of results alone; never imports running, nor running it
    user         one person's choices in, scores of new texts out
    serving      one person's scores over HTTP
    timing       how fast prbench itself is
    evaluation   running and reporting as one call: `prbench.evaluate`
    commands, cli    the command line
"""

__version__ = "0.2.0"


def __getattr__(name: str) -> object:
    """`prbench.evaluate`, imported when it is first asked for: it needs torch."""
    if name == "evaluate":
        from prbench.evaluation import evaluate

        return evaluate
    raise AttributeError(f"module 'prbench' has no attribute {name!r}")
