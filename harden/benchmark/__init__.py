"""The paper's comparison: the runs that it needs, how they are done, the ledger of results, and the page."""
