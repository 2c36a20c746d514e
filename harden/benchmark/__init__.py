"""The paper's comparison: which runs it needs, who does them, the ledger of what they gave, and its page."""
