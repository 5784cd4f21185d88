"""Checking data: everything that is wrong with a store or a source, found in one pass.

`tmor_fast.data.check.paths.check_path` checks whatever a path holds; `tmor_fast.data.check.clips` has the rules for
clips, which the importers apply too.
"""
